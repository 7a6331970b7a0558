//! Comparing by hand over HTTP: what a database holds, and rows that are to stand as they are here.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::json;
use sqlite_store::StoreError;

use crate::engine::http::refusal;
use crate::engine::shared::Shared;
use crate::event::{Event, EventName};
use crate::verification::{Ask, Reissue, Told, key_of};

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
    let database = match shared.file(&name) {
        Ok(database) => database,
        Err(error) => return refusal(StatusCode::NOT_FOUND, &error.to_string()),
    };
    let Some(question) = ask.question() else { return no_key() };
    match database.verify(question).await {
        Ok(answer) => match Told::new(&shared.node, answer) {
            Some(told) => Json(told).into_response(),
            None => no_table(&name),
        },
        Err(error) => failed(&error),
    }
}

async fn reissue(
    State(shared): State<Arc<Shared>>,
    name: Name,
    rows: Result<Json<Reissue>, JsonRejection>,
) -> Response {
    let (name, Reissue { table, keys }) = match (name, rows) {
        (Ok(Path(name)), Ok(Json(rows))) => (name, rows),
        (Err(wrong), _) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
        (_, Err(wrong)) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    let database = match shared.file(&name) {
        Ok(database) => database,
        Err(error) => return refusal(StatusCode::NOT_FOUND, &error.to_string()),
    };
    let Some(keys) = keys.iter().map(key_of).collect::<Option<Vec<_>>>() else { return no_key() };
    let rows = keys.len();
    // A task of its own: what a client asked for is done and told in the log even if the client does not wait for it.
    let task = {
        let (shared, name) = (Arc::clone(&shared), name.clone());
        async move {
            let issued = database.reissue(table.clone(), keys).await;
            if matches!(issued, Ok(true)) {
                let event = Event::new(EventName::Reissue).field("database", name).field("table", table);
                shared.events.emit(event.field("rows", rows as u64));
            }
            issued
        }
    };
    match shared.tracker.spawn(task).await {
        Ok(Ok(true)) => Json(json!({ "rows": rows })).into_response(),
        Ok(Ok(false)) => no_table(&name),
        Ok(Err(error)) => failed(&error),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, &format!("the daemon failed: {error}; see its log")),
    }
}

fn no_key() -> Response {
    refusal(StatusCode::BAD_REQUEST, "a key holds what SQLite has no value for")
}

fn no_table(database: &str) -> Response {
    let text = format!(
        "database {database:?} syncs no such table, or its key has another number of columns; {{\"ask\": \"tables\"}} tells which it has"
    );
    refusal(StatusCode::NOT_FOUND, &text)
}

fn failed(error: &StoreError) -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; {}", error.remedy()))
}
