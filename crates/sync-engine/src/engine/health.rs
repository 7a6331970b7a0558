//! `/healthz` and `/metrics`: what a service that watches this one asks. Owns what counts as healthy.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Extension, Router};

use crate::access::Grant;
use crate::config::{HealthSettings, duration_text};
use crate::engine::http::refusal;
use crate::engine::shared::Shared;
use crate::metrics::CONTENT_TYPE;
use crate::query_string;
use crate::status::Status;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/healthz", get(healthz)).route("/metrics", get(metrics))
}

/// What is wrong, a sentence each.
pub(super) fn problems(status: &Status, limits: &HealthSettings) -> Vec<String> {
    let mut problems = Vec::new();
    for database in &status.databases {
        let name = &database.name;
        if database.state == "failed" {
            problems.push(format!("database {name}: failed: {}", database.errors.join("; ")));
        }
        if let Some(most) = limits.max_backlog.filter(|most| database.backlog > *most) {
            let waiting = database.backlog;
            problems
                .push(format!("database {name}: {waiting} changes wait for capture, more than max_backlog = {most}"));
        }
    }
    let most = limits.max_lag.unwrap_or(Duration::MAX);
    for peer in &status.peers {
        for database in peer.databases.iter().filter(|it| Duration::from_millis(it.lag_ms) > most) {
            let name = peer.node.as_ref().unwrap_or(&peer.url);
            problems.push(format!(
                "peer {name}: has lacked changes of database {} for {} s, more than max_lag = {:?}",
                database.name,
                database.lag_ms / 1_000,
                duration_text(most)
            ));
        }
    }
    let connected = status.peers.iter().filter(|peer| peer.state == "connected").count();
    if connected < limits.min_peers {
        problems.push(format!("peers: {connected} connected, fewer than min_peers = {}", limits.min_peers));
    }
    problems
}

async fn healthz(
    State(shared): State<Arc<Shared>>,
    grant: Option<Extension<Grant>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let json = match wants_json(&query.unwrap_or_default(), &headers) {
        Ok(json) => json,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, &reason),
    };
    let status = shared.status();
    let opening = status.databases.iter().filter(|database| database.state == "opening");
    let opening = opening.map(|database| format!("database {}: is being opened", database.name));
    let problems: Vec<String> = status.problems.iter().cloned().chain(opening).collect();
    let sees = grant.is_some_and(|grant| grant.sees());
    // Whoever asks is told whether; who may see the databases is told why.
    let problems = match problems {
        problems if sees || problems.is_empty() => problems,
        _ => vec!["not healthy; the log and /v1/status tell why".to_owned()],
    };
    let code = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if json {
        let told = serde_json::json!({ "healthy": problems.is_empty(), "problems": problems });
        return (code, Json(told)).into_response();
    }
    let text = if problems.is_empty() { "ok".to_owned() } else { problems.join("\n") };
    (code, text + "\n").into_response()
}

fn wants_json(query: &str, headers: &HeaderMap) -> Result<bool, String> {
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut json = accepted.contains("application/json");
    for (name, value) in query_string::pairs(query)? {
        json = match (name.as_str(), value.as_str()) {
            ("format", "json") => true,
            ("format", "text") => false,
            _ => return Err(format!("{name}={value} is not known here; use format=json or format=text")),
        };
    }
    Ok(json)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.events.metrics().text(&shared.status(), shared.changes.followers());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
