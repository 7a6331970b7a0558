//! Forgetting a node that will not come back: deletions need not be remembered for it any more.

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::post;
use serde_json::json;
use sqlite_store::StoreError;

use crate::engine::http::refusal;
use crate::engine::shared::Shared;
use crate::event::{Event, EventName};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/nodes/{node}/forget", post(forget))
}

async fn forget(State(shared): State<Arc<Shared>>, node: Result<Path<String>, PathRejection>) -> Response {
    let node = match node {
        Ok(Path(node)) => node,
        Err(wrong) => return refusal(StatusCode::BAD_REQUEST, &wrong.body_text()),
    };
    if node == shared.node {
        let text = format!("{node:?} is this node itself; ask one of those that stay to forget it");
        return refusal(StatusCode::CONFLICT, &text);
    }
    if shared.registry.statuses().iter().any(|peer| peer.node.as_deref() == Some(node.as_str())) {
        let text =
            format!("node {node:?} is connected; take it out of the configuration of both nodes first, or stop it");
        return refusal(StatusCode::CONFLICT, &text);
    }
    match shared.forget_node(&node).await {
        Ok(databases) if databases.is_empty() => {
            refusal(StatusCode::NOT_FOUND, &format!("no database knows a node {node:?}; see `sync-engine status`"))
        }
        Ok(databases) => Json(json!({ "node": node, "databases": databases })).into_response(),
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; {}", error.remedy())),
    }
}

impl Shared {
    /// Does not wait for a node any more; the databases that knew it.
    async fn forget_node(&self, node: &str) -> Result<Vec<String>, StoreError> {
        let mut knew = Vec::new();
        for database in self.files() {
            if database.forget_node(node.to_owned()).await? {
                knew.push(database.name().to_owned());
                let event = Event::new(EventName::PeerForgotten).field("node", node);
                self.events.emit(event.field("database", database.name()));
            }
        }
        Ok(knew)
    }
}
