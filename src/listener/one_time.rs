//! Which tickets were used, in the store that replicas share: a ticket is good once at all of them together.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::auth::{Now, OneTimeId, OneTimeIds, UseError};
use crate::quota::Store;

/// How far the clocks of replicas may be apart: so long after its end by this one's clock, a ticket may be good by
/// another's. As long as the longest life of a ticket.
const CLOCKS_APART: Duration = Duration::from_secs(300);

/// Used ids in a store. Where it cannot say, no ticket is good.
#[derive(Debug)]
pub struct StoredIds(Arc<dyn Store>);

impl StoredIds {
    /// Ids that this store keeps.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }
}

impl OneTimeIds for StoredIds {
    fn use_up(&self, id: OneTimeId, expires: u64, now: Now) -> BoxFuture<'_, Result<(), UseError>> {
        // By the floor, as a clock that is set back makes tickets good again that have expired by the wall.
        let life = Duration::from_secs(expires.saturating_sub(now.floor)) + CLOCKS_APART;
        let name = id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        Box::pin(async move {
            match self.0.use_once(name.into(), life).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(UseError::Replayed),
                Err(_) => Err(UseError::Unknown),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::InProcess;

    #[tokio::test(start_paused = true)]
    async fn an_id_is_good_once_until_no_clock_takes_its_ticket() {
        let store: Arc<dyn Store> = Arc::new(InProcess::default());
        let (here, there) = (StoredIds::new(Arc::clone(&store)), StoredIds::new(store));
        let at = |seconds| Now {
            wall: seconds,
            floor: seconds,
        };
        assert_eq!(here.use_up([1; 16], 160, at(100)).await, Ok(()));
        assert_eq!(
            there.use_up([1; 16], 160, at(100)).await,
            Err(UseError::Replayed)
        );
        assert_eq!(there.use_up([2; 16], 160, at(100)).await, Ok(()));
        tokio::time::sleep(Duration::from_secs(359)).await;
        assert_eq!(
            there.use_up([1; 16], 160, at(150)).await,
            Err(UseError::Replayed)
        );
        // One that is over by this clock is remembered all the same.
        assert_eq!(there.use_up([3; 16], 160, at(1_000)).await, Ok(()));
        assert_eq!(
            here.use_up([3; 16], 160, at(1_000)).await,
            Err(UseError::Replayed)
        );
    }
}
