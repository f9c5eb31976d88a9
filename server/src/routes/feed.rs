//! `/v1/checkpoints`: the feed, as pages and as a stream.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use axum::response::sse::{Event, KeepAlive, Sse};
use serde::Deserialize;
use sift_spec::api::{CHECKPOINTS_PAGE_MAX, CheckpointItem, CheckpointsAnswer};
use sift_spec::checkpoint::parse_size;
use sift_spec::types::TreeSize;
use utoipa::openapi::{ObjectBuilder, Ref, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::answer::{FRESH, json};
use super::extract::{Query, page_limit};
use super::{Answered, Shared, blocking};
use crate::error::RequestError;
use crate::feed::{Follow, history};
use crate::openapi::problems;

/// How often a stream shows that it is alive while nothing is published.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The header with which a reader resumes a stream.
const LAST_EVENT_ID: &str = "last-event-id";

page_limit!(CheckpointsLimit, CHECKPOINTS_PAGE_MAX, 100);

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CheckpointsQuery {
    /// Size of the last checkpoint that the reader has; without it, from the first.
    #[param(value_type = TreeSize, required = false)]
    after: Option<TreeSize>,
    /// Checkpoints in a page, at most.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: CheckpointsLimit,
}

problems!(CheckpointsProblems: MalformedRequest, Internal);

/// Published checkpoints, the oldest first
///
/// Every checkpoint that the log keeps, one for each 256 entries or so, and the newest.
#[utoipa::path(
    get,
    path = "/v1/checkpoints",
    params(CheckpointsQuery),
    responses((status = 200, description = "A page", body = CheckpointsAnswer), CheckpointsProblems)
)]
pub(super) async fn checkpoints(
    State(app): Shared,
    Query(CheckpointsQuery { after, limit }): Query<CheckpointsQuery>,
) -> Answered {
    let (view, publish) = (app.published(), app.feed.publish);
    let newest = view.head.size;
    let page = blocking(move || history(&app.store, &view, after, limit.get())).await??;
    let next = page.checkpoints.last().map(|last| last.size).filter(|_| page.more);
    json(FRESH, &CheckpointsAnswer { checkpoints: page.checkpoints, next, newest, publish })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct StreamQuery {
    /// Size of the last checkpoint that the reader has; without it, from the newest on.
    #[param(value_type = TreeSize, required = false)]
    after: Option<TreeSize>,
}

/// An event of the stream, in the document.
struct CheckpointEvent;

impl PartialSchema for CheckpointEvent {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let checkpoint = RefOr::<Schema>::Ref(Ref::from_schema_name("CheckpointItem"));
        let data = text().content_media_type("application/json").content_schema(Some(checkpoint));
        let event = ObjectBuilder::new()
            .description(Some("An event. Its data is a line of JSON."))
            .property("event", text().enum_values(Some(["checkpoint"])))
            .property("id", text().pattern(Some("^(0|[1-9][0-9]*)$")).description(Some("Size of the tree.")))
            .property("data", data)
            .required("event")
            .required("id")
            .required("data");
        RefOr::T(event.into())
    }
}

impl ToSchema for CheckpointEvent {}

/// How a reader resumes a stream.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "the document's side of the header that the handler reads itself")]
pub(super) struct Resume {
    /// The `id` of the last event that the reader has; counts more than `after`.
    #[param(rename = "Last-Event-ID", value_type = TreeSize, required = false)]
    last_event_id: Option<TreeSize>,
}

problems!(StreamProblems: MalformedRequest, NotFound, Busy);

/// Checkpoints as they are published
///
/// Server-sent events of type `checkpoint`, whose `id` is the size and whose `data` is JSON with `size` and `note`. First
/// what history holds after the given size, then each newest checkpoint. A comment is sent every 15 seconds. A reader
/// who is slow gets the newest; what is kept is never left out, and sizes only grow.
#[utoipa::path(
    get,
    path = "/v1/checkpoints/stream",
    params(StreamQuery, Resume),
    responses(
        (status = 200, description = "Events without end", body = CheckpointEvent,
            content_type = "text/event-stream"),
        StreamProblems,
    )
)]
pub(super) async fn checkpoint_stream(
    State(app): Shared,
    Query(StreamQuery { after }): Query<StreamQuery>,
    headers: HeaderMap,
) -> Answered {
    let resumed = match headers.get(LAST_EVENT_ID) {
        None => None,
        Some(id) => Some(id.to_str().ok().and_then(parse_size).ok_or_else(|| {
            RequestError::Malformed(
                "Last-Event-ID: not the id of an event, which is the size of a tree".to_owned(),
            )
        })?),
    };
    let follow = app.feed.follow(&app.store, app.published.clone(), resumed.or(after))?;
    let events = futures_util::stream::unfold(follow, |mut follow: Follow| async {
        let checkpoint = follow.next().await?;
        Some((Ok::<_, Infallible>(event(&checkpoint)?), follow))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

/// JSON keeps a note's lines on one line, so that an event needs no rule for line ends.
fn event(checkpoint: &CheckpointItem) -> Option<Event> {
    let data = serde_json::to_string(checkpoint).ok()?;
    Some(Event::default().event("checkpoint").id(checkpoint.size.to_string()).data(data))
}
