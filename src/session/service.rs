//! The ingest service: from a request head to a session. [`judge`] checks head, origin and upgrade;
//! this module checks the token and the tenant's quota.

#![forbid(unsafe_code)]

use super::ingest::{IngestSession, IngestSettings, IngestShared};
use super::{Admission, Service, Suspect};
use crate::auth::{ClientName, TokenError, Verifier};
use crate::clock::Now;
use crate::metrics::Counters;
use crate::proto::handshake::{Answer, Judgement, Refusal, Situation, bearer_token, judge};
use crate::proto::http::Head;
use crate::tenants::Tenants;
use std::sync::Arc;

/// Makes the ingest sessions of one shard.
#[derive(Debug)]
pub struct IngestService {
    shared: Arc<IngestShared>,
    verifier: Arc<Verifier>,
    tenants: Arc<Tenants>,
    /// What was wrong with the token of the last request.
    token_error: Option<TokenError>,
}

impl IngestService {
    /// For one shard. `verifier` and `tenants` belong to the node.
    pub fn new(
        settings: Arc<IngestSettings>,
        verifier: Arc<Verifier>,
        tenants: Arc<Tenants>,
    ) -> Self {
        IngestService { shared: IngestShared::new(settings), verifier, tenants, token_error: None }
    }

    /// What the shard's sessions share. Read its counters here.
    pub fn shared(&self) -> Arc<IngestShared> {
        Arc::clone(&self.shared)
    }

    /// Verifies a token and reserves its call.
    fn admit_token(
        &mut self,
        now: Now,
        token: &str,
        client: Option<&ClientName>,
    ) -> Result<IngestSession, Refusal> {
        let mut claims = self.verifier.verify(token, now.unix).map_err(|error| {
            self.shared.counters.token_failures[error.index()].add(1);
            self.token_error = Some(error);
            Refusal::TokenInvalid
        })?;
        let by = self.shared.settings.client_tenant;
        if let Some(tenants) = client.and_then(|client| client.tenants(by)) {
            if !tenants.contains(&claims.identity.tenant) {
                return Err(Refusal::ClientForbidden);
            }
            // A `start` may name no other tenant either, whatever it is compared with.
            claims.allowed_tenants = claims.allowed_tenants.within(&tenants);
        }
        let permit = self.tenants.admit(&claims.identity.tenant).map_err(|_| Refusal::Quota)?;
        Ok(IngestSession::new(now, claims, permit, Arc::clone(&self.shared)))
    }
}

impl Service for IngestService {
    type Session = IngestSession;

    fn admit(
        &mut self,
        now: Now,
        head: &Head<'_>,
        situation: Situation,
        client: Option<&ClientName>,
        counters: &Counters,
    ) -> Admission<IngestSession> {
        self.token_error = None;
        // The shard counts the node's calls when it admits them, so callers of this need not.
        let situation =
            Situation { at_capacity: situation.at_capacity || self.tenants.is_full(), ..situation };
        let answer = match judge(head, situation, self.shared.settings.allowed_origins.as_deref()) {
            Judgement::Upgrade { token, accept } => match self.admit_token(now, token, client) {
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

    fn describe(&self, head: &Head<'_>) -> Suspect {
        let reason = self.token_error.map(TokenError::label);
        match bearer_token(head.authorization) {
            Ok(token) => {
                let (kid, tenant) = Verifier::claimed(token);
                Suspect { reason, kid, tenant }
            }
            Err(_) => Suspect { reason, ..Suspect::default() },
        }
    }

    fn handle_keys(&mut self, verifier: Arc<Verifier>) {
        self.verifier = verifier;
    }
}

#[cfg(test)]
mod tests;
