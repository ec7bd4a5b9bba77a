//! The caller's wire formats: one pure file a dialect, bytes in and events out, commands in and bytes out.
