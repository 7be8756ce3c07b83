//! The ids and tokens of the calls: minted from a private key, or taken from one given token.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::cli::RunArgs;
use crate::token::{Claims, Grant, Signer, TokenError};

/// Tokens are valid for the run's audio and this much longer, which covers hanging up.
const TOKEN_SPARE: Duration = Duration::from_secs(3_600);

/// Tenant where no flag and no token names one.
const TENANT_DEFAULT: &str = "load";

/// Ids and token of one call.
pub struct CallIds {
    /// `tenant_id`.
    pub tenant: Arc<str>,
    /// `interaction_id`.
    pub interaction: String,
    /// Bearer token.
    pub token: Arc<str>,
}

/// Ids of `calls` calls. Those that replace others come last.
///
/// A token takes a millisecond to mint.
pub fn of_calls(
    args: &RunArgs,
    ramp: Duration,
    calls: u64,
) -> Result<Vec<CallIds>, Box<dyn Error>> {
    if let Some(path) = &args.play.key {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("--key: cannot read {}: {error}", path.display()))?;
        let signer = Signer::from_pem(&text, args.play.kid.as_deref())?;
        return Ok(minted(args, &signer, ramp, calls)?);
    }
    let given = args.play.token.clone().or_else(|| std::env::var("JWT_TOKEN").ok());
    let token = given.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    let token = token.ok_or(
        "no token: give --key PRIVATE.pem, --token, or the variable JWT_TOKEN \
         ('exo-ingest token mint' makes a token)",
    )?;
    let claims = Claims::of(&token)?;
    let tenant = args.play.tenant.clone().or(claims.tenant_id);
    let tenant: Arc<str> = tenant.as_deref().unwrap_or(TENANT_DEFAULT).into();
    let token: Arc<str> = token.into();
    let only = claims.interaction_id.filter(|_| calls == 1 && args.interaction_prefix.is_none());
    let ids = |number| CallIds {
        tenant: tenant.clone(),
        interaction: only.clone().unwrap_or_else(|| interaction(args, number)),
        token: token.clone(),
    };
    Ok((0..calls).map(ids).collect())
}

fn interaction(args: &RunArgs, number: u64) -> String {
    let prefix = args.interaction_prefix.as_deref().unwrap_or("load-");
    format!("{prefix}{}", args.first_call + number)
}

/// A token for each call. They are minted before the run, on all CPUs: during it, minting would
/// cost send lag.
fn minted(
    args: &RunArgs,
    signer: &Signer,
    ramp: Duration,
    calls: u64,
) -> Result<Vec<CallIds>, TokenError> {
    let tenant: Arc<str> = args.play.tenant.as_deref().unwrap_or(TENANT_DEFAULT).into();
    let now = unix_seconds();
    // With `--start-at` the run may be hours away.
    let start = args.start_at.unwrap_or(now).max(now);
    let exp = start.saturating_add((ramp + args.duration + TOKEN_SPARE).as_secs());
    let progress = indicatif::ProgressBar::new(calls).with_message("minting tokens");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let mint = |number: u64| {
        let interaction = interaction(args, number);
        let grant = Grant { tenant_id: &tenant, interaction_id: &interaction, iat: now, exp };
        let token = signer.mint(&grant)?.into();
        progress.inc(1);
        Ok((number, CallIds { tenant: tenant.clone(), interaction, token }))
    };
    let work = || {
        let numbers = std::iter::from_fn(|| {
            let number = next.fetch_add(1, Ordering::Relaxed) as u64;
            (number < calls).then_some(number)
        });
        numbers.map(mint).collect::<Result<Vec<_>, TokenError>>()
    };
    let mut minted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut minted = Vec::with_capacity(calls as usize);
        for thread in threads {
            minted.extend(thread.join().map_err(|_| TokenError::Sign)??);
        }
        Ok::<_, TokenError>(minted)
    })?;
    progress.finish_and_clear();
    minted.sort_unstable_by_key(|(number, _)| *number);
    Ok(minted.into_iter().map(|(_, ids)| ids).collect())
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::cli::run_args as args;

    #[test]
    fn a_tokens_claims_name_a_single_call() {
        // {"tenant_id":"t1","interaction_id":"i1"}
        let token = "e30.eyJ0ZW5hbnRfaWQiOiJ0MSIsImludGVyYWN0aW9uX2lkIjoiaTEifQ.AA";
        let names = |flags: &[&str]| {
            let flags: Vec<&str> = ["--token", token].iter().chain(flags).copied().collect();
            let calls = of_calls(&args(&flags), Duration::ZERO, args(&flags).calls).unwrap();
            calls
                .iter()
                .map(|ids| format!("{}/{}", ids.tenant, ids.interaction))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["t1/i1"]);
        assert_eq!(names(&["--calls", "2"]), ["t1/load-0", "t1/load-1"]);
        assert_eq!(names(&["--interaction-prefix", "x", "--tenant", "t2"]), ["t2/x0"]);
    }

    #[test]
    fn tokens_hold_until_an_hour_after_the_audio_whenever_it_begins() {
        use rsa::pkcs8::EncodePrivateKey as _;
        let key = rsa::RsaPrivateKey::new(&mut rand_core::OsRng, 2048).unwrap();
        let signer =
            Signer::from_pem(&key.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap(), None).unwrap();
        let now = unix_seconds();
        let expires = |flags: &[&str]| {
            let calls = minted(&args(flags), &signer, Duration::from_secs(10), 1).unwrap();
            let claims = URL_SAFE_NO_PAD.decode(calls[0].token.split('.').nth(1).unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["exp"].as_u64().unwrap()
        };
        let lasting = 10 + 60 + 3_600;
        assert!(expires(&["--duration", "60s"]) >= now + lasting);
        let later = now + 86_400;
        assert_eq!(
            expires(&["--duration", "60s", "--start-at", &later.to_string()]),
            later + lasting
        );
    }
}
