#![forbid(unsafe_code)]
//! The budget of required sinks: how much of the journal may wait for them on the disk, and what
//! happens when it is used up.
//!
//! Finished segments that a required sink has not taken count against it. Those in use do not: a
//! shard has two of them at most. Nothing is judged before each sink has looked at its cursor,
//! since until then everything is pinned.

use super::config::{Budget, OverBudget};
use super::inventory::{Inventory, SegmentSizes};
use super::removal::Removal;
use super::retention;
use super::state::StoreState;

/// New calls are taken again below seven eighths of the budget, so that calls do not come and go
/// with each segment.
const AGAIN_SHARE: (u64, u64) = (7, 8);

/// Whether the budget is used up.
#[derive(Debug, Default)]
pub(super) struct BudgetWatch {
    budget: Option<Budget>,
    /// New calls are refused.
    is_over: bool,
    /// Bytes to be removed although a sink lacks them.
    excess: u64,
    /// Segments and bytes removed so since the last line in the log.
    dropped: (u64, u64),
}

impl BudgetWatch {
    pub(super) fn new(budget: Option<Budget>) -> BudgetWatch {
        BudgetWatch { budget, ..BudgetWatch::default() }
    }

    /// Call it once a second. Returns whether new calls are refused, if that has changed.
    pub(super) fn look(&mut self, inventory: &Inventory, sizes: SegmentSizes) -> Option<bool> {
        let budget = self.budget?;
        self.log_dropped(budget);
        let pinned = if inventory.has_settled_pins() { sizes.pinned } else { 0 };
        match budget.over {
            OverBudget::DropOldest => {
                self.excess = pinned.saturating_sub(budget.bytes);
                None
            }
            OverBudget::Refuse => {
                let (part, whole) = AGAIN_SHARE;
                let limit = if self.is_over { budget.bytes / whole * part } else { budget.bytes };
                let is_over = pinned > limit;
                if is_over == self.is_over {
                    return None;
                }
                self.is_over = is_over;
                let budget = budget.bytes;
                match is_over {
                    true => tracing::error!(
                        waiting = pinned,
                        budget,
                        "forward.budget is used up by what required sinks have not taken: new \
                         calls are refused"
                    ),
                    false => tracing::info!(
                        waiting = pinned,
                        budget,
                        "required sinks have taken enough: new calls are taken again"
                    ),
                }
                Some(is_over)
            }
        }
    }

    /// Begins to remove the oldest segment that a required sink lacks, if too many bytes wait.
    pub(super) fn next_removal(
        &mut self,
        inventory: &mut Inventory,
        state: &StoreState,
        wanted: Option<u64>,
    ) -> Option<Removal> {
        while self.excess > 0 {
            let Some(oldest) = inventory.oldest_pinned() else {
                // Until the next look: they are locked.
                self.excess = 0;
                return None;
            };
            let (bytes, lacking) = (oldest.bytes, inventory.pins_of(&oldest));
            if let Some(removal) = retention::begin(inventory, oldest, state, wanted) {
                lacking.iter().for_each(|pins| pins.count_dropped(bytes));
                self.excess = self.excess.saturating_sub(bytes);
                self.dropped = (self.dropped.0 + 1, self.dropped.1 + bytes);
                return Some(removal);
            }
        }
        None
    }

    fn log_dropped(&mut self, budget: Budget) {
        let (segments, bytes) = std::mem::take(&mut self.dropped);
        if segments > 0 {
            tracing::error!(
                segments,
                bytes,
                budget = budget.bytes,
                "the oldest audio was removed although a required sink has not taken it: \
                 forward.budget is used up, and forward.over_budget is drop-oldest"
            );
        }
    }
}
