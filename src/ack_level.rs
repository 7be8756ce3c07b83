//! What an ACK promises.

#![forbid(unsafe_code)]

/// What an acked frame survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckLevel {
    /// The loss of the machine: a message engine has it, and the journal too.
    Replicated,
    /// Power loss.
    Durable,
    /// A crash of the process.
    Written,
    /// Only a network failure.
    Received,
}

impl AckLevel {
    /// The name in settings.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            AckLevel::Replicated => "replicated",
            AckLevel::Durable => "durable",
            AckLevel::Written => "written",
            AckLevel::Received => "received",
        }
    }

    /// What the journal has to do for it. The message engine gets only what is durable.
    pub(crate) const fn of_journal(self) -> AckLevel {
        match self {
            AckLevel::Replicated => AckLevel::Durable,
            level => level,
        }
    }
}

/// What the ACKs of each call promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLevels {
    node: AckLevel,
    /// At the level `replicated`: the tenants whose audio goes to the engine. `None`: all of them.
    replicated: Option<Vec<Box<str>>>,
}

impl CallLevels {
    /// The same for all calls.
    pub const fn all(node: AckLevel) -> CallLevels {
        CallLevels { node, replicated: None }
    }

    /// `replicated` for the calls of these tenants, and `durable` for all others, whose audio the
    /// engine does not get.
    pub const fn replicated_for(tenants: Vec<Box<str>>) -> CallLevels {
        CallLevels { node: AckLevel::Replicated, replicated: Some(tenants) }
    }

    /// The level of a call of this tenant.
    pub(crate) fn of(&self, tenant: &str) -> AckLevel {
        match &self.replicated {
            Some(tenants) if !tenants.iter().any(|name| **name == *tenant) => {
                self.node.of_journal()
            }
            _ => self.node,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_whose_audio_the_engine_gets_wait_for_it() {
        let some = CallLevels::replicated_for(vec!["acme".into()]);
        assert_eq!((some.of("acme"), some.of("other")), (AckLevel::Replicated, AckLevel::Durable));
        let none = CallLevels::replicated_for(Vec::new());
        assert_eq!(none.of("acme"), AckLevel::Durable);
        for level in [AckLevel::Replicated, AckLevel::Written] {
            assert_eq!(CallLevels::all(level).of("acme"), level);
        }
    }

    #[test]
    fn the_journal_of_a_replicated_call_is_durable() {
        assert_eq!(AckLevel::Replicated.of_journal(), AckLevel::Durable);
        for level in [AckLevel::Durable, AckLevel::Written, AckLevel::Received] {
            assert_eq!(level.of_journal(), level);
        }
    }
}
