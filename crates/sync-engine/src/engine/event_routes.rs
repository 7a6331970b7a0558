//! The latest events over HTTP: `/v1/events`.

use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;

use crate::engine::http::refusal;
use crate::engine::shared::Shared;
use crate::query_string;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/events", get(events))
}

async fn events(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    match after(&query.unwrap_or_default()) {
        Ok(number) => Json(shared.events.recent(number)).into_response(),
        Err(reason) => refusal(StatusCode::BAD_REQUEST, &reason),
    }
}

/// After which number somebody asks for events.
fn after(query: &str) -> Result<u64, String> {
    let mut after = 0;
    for (name, value) in query_string::pairs(query)? {
        if name != "after" {
            return Err(format!("{name:?} is nothing to ask for; use after"));
        }
        let number = value.parse();
        after = number.map_err(|_| format!("{value:?} is no number of an event; write one as events have it"))?;
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::after;

    #[test]
    fn what_is_asked_for() {
        assert_eq!(after(""), Ok(0));
        assert_eq!(after("after=1795428000123001"), Ok(1_795_428_000_123_001));
        for wrong in ["after=", "after=-1", "after=x", "since=1", "after=%"] {
            assert!(after(wrong).is_err(), "{wrong}");
        }
    }
}
