//! Conflict records over HTTP: `/v1/conflicts`, `/v1/conflicts/ID`, and what can be done about one.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use sqlite_store::ConflictAction;

use crate::conflicts::{ConflictError, ConflictFilter, ConflictRecord};
use crate::engine::http::refusal;
use crate::engine::shared::Shared;

/// The id in a path, where it is text.
type Id = Result<Path<String>, PathRejection>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/conflicts", get(list))
        .route("/v1/conflicts/{id}", get(show))
        .route("/v1/conflicts/{id}/restore", post(restore))
        .route("/v1/conflicts/{id}/dismiss", post(dismiss))
}

async fn list(State(shared): State<Arc<Shared>>, RawQuery(query): RawQuery) -> Response {
    let filter = match ConflictFilter::from_query(&query.unwrap_or_default()) {
        Ok(filter) => filter,
        Err(reason) => return refusal(StatusCode::BAD_REQUEST, &reason),
    };
    match shared.conflicts(&filter).await {
        Ok(records) => Json(records).into_response(),
        Err(error) => refusal(status(&error), &error.to_string()),
    }
}

async fn show(State(shared): State<Arc<Shared>>, id: Id) -> Response {
    match id {
        Ok(Path(id)) => answer(shared.conflict(&id).await),
        Err(wrong) => refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
    }
}

async fn restore(State(shared): State<Arc<Shared>>, id: Id) -> Response {
    act(shared, id, ConflictAction::Restore).await
}

async fn dismiss(State(shared): State<Arc<Shared>>, id: Id) -> Response {
    act(shared, id, ConflictAction::Dismiss).await
}

async fn act(shared: Arc<Shared>, id: Id, action: ConflictAction) -> Response {
    let id = match id {
        Ok(Path(id)) => id,
        Err(wrong) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    // A task of its own: what a client asked for is done and told in the log even if the client does not wait for it.
    let task = {
        let shared = Arc::clone(&shared);
        async move { shared.act_on_conflict(&id, action).await }
    };
    match shared.tracker.spawn(task).await {
        Ok(acted) => answer(acted),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("the daemon failed: {error}; see its log")),
    }
}

fn answer(result: Result<ConflictRecord, ConflictError>) -> Response {
    match result {
        Ok(record) => Json(record).into_response(),
        Err(error) => refusal(status(&error), &error.to_string()),
    }
}

fn status(error: &ConflictError) -> StatusCode {
    match error {
        ConflictError::Id { .. } | ConflictError::Ambiguous { .. } => StatusCode::BAD_REQUEST,
        ConflictError::Database { .. } | ConflictError::Unknown { .. } => StatusCode::NOT_FOUND,
        ConflictError::Refused { .. } => StatusCode::CONFLICT,
        ConflictError::Store { .. } => StatusCode::SERVICE_UNAVAILABLE,
    }
}
