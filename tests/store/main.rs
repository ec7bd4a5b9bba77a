//! The store of counts and leases: laws that hold in one process and in Redis alike, and what happens when Redis is
//! slow, gone, restarted, flushed, full or somebody's replica. Starts real `redis-server`s.

mod laws;
mod replicas;
mod roll;
mod server;
mod trouble;
