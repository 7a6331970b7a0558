//! Comparing by hand over HTTP: what a database holds, and rows that are to stand as they are here.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::json;

use crate::engine::http::refusal;
use crate::engine::shared::Shared;
use crate::engine::verifier::{Verifier, VerifyError};
use crate::verification::{Ask, Reissue};

/// Bytes of a question: keys may be long.
const QUESTION_BYTES: usize = 16 << 20;

/// The name in a path, where it is text.
type Name = Result<Path<String>, PathRejection>;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/databases/{name}/verify", post(verify))
        .route("/v1/databases/{name}/reissue", post(reissue))
        .layer(DefaultBodyLimit::max(QUESTION_BYTES))
}

async fn verify(State(shared): State<Arc<Shared>>, name: Name, ask: Result<Json<Ask>, JsonRejection>) -> Response {
    let (name, ask) = match (name, ask) {
        (Ok(Path(name)), Ok(Json(ask))) => (name, ask),
        (Err(wrong), _) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
        (_, Err(wrong)) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    match Verifier::new(shared, name).ask(ask).await {
        Ok(told) => Json(told).into_response(),
        Err(error) => refused(&error),
    }
}

async fn reissue(
    State(shared): State<Arc<Shared>>,
    name: Name,
    rows: Result<Json<Reissue>, JsonRejection>,
) -> Response {
    let (name, rows) = match (name, rows) {
        (Ok(Path(name)), Ok(Json(rows))) => (name, rows),
        (Err(wrong), _) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
        (_, Err(wrong)) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    match Verifier::new(shared, name).reissue(rows).await {
        Ok(rows) => Json(json!({ "rows": rows })).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &VerifyError) -> Response {
    let status = match error {
        VerifyError::NoDatabase(_) | VerifyError::NoTable { .. } => StatusCode::NOT_FOUND,
        VerifyError::NoKey => StatusCode::BAD_REQUEST,
        VerifyError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    refusal(status, &error.to_string())
}
