//! The web page of the admin listener: one document with its style and script in it, so that it
//! needs nothing else, and no step to build it. It reads `/status.json`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use ring::digest::{SHA256, digest};
use std::sync::OnceLock;

const STYLE: &str = include_str!("page/page.css");

macro_rules! script {
    () => {
        concat!(
            include_str!("page/units.js"),
            include_str!("page/heat.js"),
            include_str!("page/tables.js"),
            include_str!("page/page.js")
        )
    };
}

const SCRIPT: &str = script!();

/// The whole page.
pub(super) const PAGE: &str = concat!(
    include_str!("page/begin.html"),
    "<style>",
    include_str!("page/page.css"),
    "</style>\n",
    include_str!("page/body.html"),
    "<script>",
    script!(),
    "</script>\n</body>\n</html>\n"
);

/// What a browser may do on it: run this script, use this style, ask this node. So an id of a call
/// can never become code, wherever it is shown.
pub(super) fn policy() -> HeaderValue {
    static POLICY: OnceLock<HeaderValue> = OnceLock::new();
    let make = || {
        let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
        let policy = format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src \
             'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(SCRIPT),
            hash(STYLE)
        );
        // Base64 has no character that a header may not have.
        HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    };
    POLICY.get_or_init(make).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_refers_to_nothing_outside() {
        assert!(PAGE.starts_with("<!doctype html>") && PAGE.ends_with("</html>\n"));
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
        for outside in ["http:", "https:", "src=", "url(", "@import", "//cdn", "innerHTML"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        // Either would end early.
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
        assert!(PAGE.len() < 64 << 10, "{}", PAGE.len());
    }

    #[test]
    fn the_policy_allows_this_script_and_this_style() {
        let policy = policy();
        let policy = policy.to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    }
}
