//! The status page: one document without any data, which asks this node for all that it shows. Owns its text and what a browser may do
//! with it; must not know what is shown.
//!
//! Its parts are files of their own only here, for who reads them: a browser is sent them as one, and loads nothing else.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

const DOCUMENT: &str = include_str!("page/document.html");

const STYLE: [&str; 2] = [include_str!("page/style.css"), include_str!("page/sections.css")];

/// Runs before anything is drawn.
const THEME: &str = include_str!("page/theme.js");

const SCRIPT: [&str; 11] = [
    include_str!("page/document.js"),
    include_str!("page/daemon.js"),
    include_str!("page/words.js"),
    include_str!("page/history.js"),
    include_str!("page/plots.js"),
    include_str!("page/links.js"),
    include_str!("page/databases.js"),
    include_str!("page/conflict.js"),
    include_str!("page/conflicts.js"),
    include_str!("page/events.js"),
    include_str!("page/main.js"),
];

/// The document, and what it may do.
struct Page {
    text: String,
    /// The same where a token is asked for: it does not try without one, which the log would tell as an intruder.
    guarded: String,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let (style, script) = (STYLE.concat(), SCRIPT.concat());
    let text = DOCUMENT.replace("/*style*/", &style).replace("/*theme*/", THEME).replace("/*script*/", &script);
    let guarded = text.replacen("<html", "<html data-token", 1);
    // No other script runs, nothing is fetched from elsewhere, no text becomes markup, and no other page can frame this one.
    let policy = format!(
        "default-src 'none'; script-src {} {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(THEME),
        hash(&script),
        hash(&style)
    );
    let policy = HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    Page { text, guarded, policy }
});

/// How a policy names a script or a style.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
}

/// The page.
pub(super) fn answer(wants_token: bool) -> Response {
    let page = &*PAGE;
    let text = if wants_token { page.guarded.as_str() } else { page.text.as_str() };
    ([(header::CONTENT_SECURITY_POLICY, page.policy.clone())], Html(text)).into_response()
}

/// Has browsers and proxies keep nothing of an answer, and take it for nothing but what it is.
pub(super) async fn cautious(mut response: Response) -> Response {
    let headers = response.headers_mut();
    set(headers, header::CACHE_CONTROL, "no-store");
    set(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(headers, header::REFERRER_POLICY, "no-referrer");
    response
}

fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &'static str) {
    headers.entry(name).or_insert(HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::{DOCUMENT, PAGE, SCRIPT, STYLE};

    #[test]
    fn the_page_is_small_and_whole() {
        assert!(PAGE.guarded.len() < 80_000, "{} bytes", PAGE.guarded.len());
        assert!(PAGE.guarded.starts_with("<!doctype html>\n<html data-token lang"));
        assert_eq!(PAGE.text.matches("<script").count(), 2);
        assert!(PAGE.policy.to_str().unwrap().starts_with("default-src 'none'; script-src 'sha256-"));
    }

    /// The policy forbids both; found here, it is found before a browser looks.
    #[test]
    fn nothing_is_loaded_and_no_text_becomes_markup() {
        for (text, name) in [(DOCUMENT.to_owned(), "document"), (STYLE.concat(), "style"), (SCRIPT.concat(), "script")]
        {
            for word in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=\"", "@import"]
            {
                assert!(!text.contains(word), "{word} in the {name}");
            }
            let addresses = text.matches("://").count() - text.matches("http://www.w3.org/2000/svg").count();
            assert_eq!(addresses, 0, "addresses in the {name}");
        }
    }
}
