//! One call by its name, or many by filters.

#![forbid(unsafe_code)]

use super::Failure;
use super::filter::Filter;
use super::name::{self, split};
use crate::call::CallIdentity;
use clap::Args;

/// Names a call, or filters calls.
#[derive(Debug, Args)]
pub(in crate::cli) struct Choice {
    /// One call, as `calls list` shows it; write a `/` within an id as %2F
    #[arg(
        value_name = "TENANT/INTERACTION",
        conflicts_with_all = [
            "tenant", "interaction", "prefix", "since", "until", "live", "ended", "all",
        ]
    )]
    call: Option<String>,
    /// One call of --tenant, by its interaction without encoding
    #[arg(
        long,
        value_name = "I",
        requires = "tenant",
        conflicts_with_all = ["prefix", "since", "until", "live", "ended", "all"]
    )]
    interaction: Option<String>,
    #[command(flatten)]
    filter: Filter,
    /// All calls
    #[arg(long, conflicts_with_all = ["tenant", "prefix", "since", "until", "live", "ended"])]
    all: bool,
}

/// What was chosen.
pub(in crate::cli) enum Chosen<'a> {
    One(CallIdentity),
    Many(&'a Filter),
}

impl Choice {
    /// Whether live calls are wanted too: they were asked for, or the call was named.
    pub(crate) fn takes_live(&self) -> bool {
        self.filter.live || self.call.is_some() || self.interaction.is_some()
    }

    /// What was chosen. Nothing is an error, so that a forgotten filter is not taken for all calls.
    pub(crate) fn chosen(&self) -> Result<Chosen<'_>, Failure> {
        let one = match (&self.call, &self.interaction, &self.filter.tenant) {
            (Some(call), ..) => Some(split(call)?),
            (None, Some(interaction), Some(tenant)) => Some((tenant.clone(), interaction.clone())),
            _ => None,
        };
        if let Some((tenant, interaction)) = one {
            return name::identity(tenant, interaction).map(Chosen::One);
        }
        self.filter.check()?;
        if self.filter.is_empty() && !self.all {
            return Err(Failure::Usage(
                "which calls? name one as TENANT/INTERACTION, choose several with --tenant, \
                 --prefix, --since, --until or --ended, or all of them with --all"
                    .into(),
            ));
        }
        Ok(Chosen::Many(&self.filter))
    }
}
