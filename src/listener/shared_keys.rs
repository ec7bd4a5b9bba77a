//! Ephemeral keys in the store that replicas share: a key is good at all of them.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::auth::{KeyStore, NoStore};
use crate::quota::Store;

/// Sealed keys in a store.
#[derive(Debug)]
pub struct StoredKeys(Arc<dyn Store>);

impl StoredKeys {
    /// Keys that this store keeps.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
}

impl KeyStore for StoredKeys {
    fn keep(
        &self,
        name: String,
        sealed: String,
        life: Duration,
    ) -> BoxFuture<'_, Result<(), NoStore>> {
        Box::pin(async move {
            let kept = self.0.put(name.into(), sealed.into(), life).await;
            kept.map_err(|_| NoStore)
        })
    }

    fn find(&self, name: String) -> BoxFuture<'_, Result<Option<String>, NoStore>> {
        Box::pin(async move { self.0.get(name.into()).await.map_err(|_| NoStore) })
    }
}
