//! The ingest service: from a request head to a session. Head, origin and upgrade are [`judge`]'s; the token and the
//! tenant's quota are decided here.

#![forbid(unsafe_code)]

use super::ingest::{IngestSession, IngestSettings, IngestShared};
use super::{Admission, Service};
use crate::auth::{Claims, Verifier};
use crate::clock::Now;
use crate::metrics::Counters;
use crate::proto::handshake::{Answer, Judgement, Refusal, Situation, judge};
use crate::proto::http::Head;
use crate::tenants::Tenants;
use std::sync::Arc;

/// Makes the ingest sessions of one shard.
#[derive(Debug)]
pub struct IngestService {
    shared: Arc<IngestShared>,
    verifier: Arc<Verifier>,
    tenants: Arc<Tenants>,
}

impl IngestService {
    /// For one shard. `verifier` and `tenants` are the node's.
    pub fn new(settings: Arc<IngestSettings>, verifier: Arc<Verifier>, tenants: Arc<Tenants>) -> Self {
        IngestService { shared: IngestShared::new(settings), verifier, tenants }
    }

    /// What the shard's sessions share; its counters are there to be read.
    pub fn shared(&self) -> Arc<IngestShared> {
        Arc::clone(&self.shared)
    }

    /// Verifies a token and makes room for its call.
    fn admit_token(&mut self, now: Now, token: &str) -> Result<IngestSession, Refusal> {
        let claims = self.verifier.verify(token, now.unix).map_err(|error| {
            self.shared.counters.token_failures[error.index()].add(1);
            Refusal::TokenInvalid
        })?;
        self.admit_claims(now, claims)
    }

    fn admit_claims(&mut self, now: Now, claims: Claims) -> Result<IngestSession, Refusal> {
        let permit = self.tenants.admit(&claims.identity.tenant).map_err(|_| Refusal::Quota)?;
        Ok(IngestSession::new(now, claims, permit, Arc::clone(&self.shared)))
    }
}

impl Service for IngestService {
    type Session = IngestSession;

    fn admit(&mut self, now: Now, head: &Head<'_>, situation: Situation, counters: &Counters) -> Admission<IngestSession> {
        // The node's calls are counted where they are admitted: whoever calls need not know of them.
        let situation = Situation { at_capacity: situation.at_capacity || self.tenants.is_full(), ..situation };
        let answer = match judge(head, situation, self.shared.settings.allowed_origins.as_deref()) {
            Judgement::Upgrade { token, accept } => match self.admit_token(now, token) {
                Ok(session) => {
                    counters.upgrades.add(1);
                    return Admission::Upgrade { accept, session };
                }
                Err(refusal) => Answer::Refused { refusal, head_only: false },
            },
            Judgement::Answer(answer) => answer,
        };
        if let Answer::Refused { refusal, .. } = answer {
            self.handle_refusal(refusal, counters);
        }
        Admission::Answer(answer)
    }

    fn handle_refusal(&mut self, refusal: Refusal, counters: &Counters) {
        self.shared.counters.refusals[refusal.index()].add(1);
        counters.requests_refused.add(1);
    }

    fn handle_keys(&mut self, verifier: Arc<Verifier>) {
        self.verifier = verifier;
    }
}

#[cfg(test)]
mod tests;
