//! The tree: checkpoint, tiles and proofs.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use sift_spec::api::{ConsistencyAnswer, InclusionAnswer, MEDIA_BYTES, MEDIA_NOTE};
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath, Tiles as _, push_entry};
use sift_spec::types::{LeafIndex, TreeSize};

use super::{Answered, FRESH, IMMUTABLE, QueryOf, Shared, answer, from_view, query_error};
use crate::error::RequestError;
use crate::store::StoreError;
use crate::view::View;

pub(super) async fn checkpoint(State(app): Shared) -> Response {
    answer(MEDIA_NOTE, FRESH, app.published().checkpoint.clone())
}

pub(super) async fn tile(State(app): Shared, Path(path): Path<String>) -> Answered {
    let path = format!("tile/{path}");
    let missing = || RequestError::NotFound(format!("{path} in this tree"));
    let parsed = TilePath::parse(&path).ok_or_else(missing)?;
    let size = app.published().head.size;
    let bytes = match parsed {
        TilePath::Hashes { tile, width } if width <= tile.width(size) => {
            let hashes = app.store.tile(tile, width)?;
            hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
        }
        TilePath::Entries { index, width } if width <= (TileId { level: 0, index }).width(size) => {
            let mut bundle = Vec::new();
            for entry in app.store.entries(index * TILE_WIDTH, width)? {
                if !push_entry(&mut bundle, &entry) {
                    return Err(StoreError::Damaged("an entry is too long".to_owned()).into());
                }
            }
            bundle
        }
        _ => return Err(missing()),
    };
    Ok(answer(MEDIA_BYTES, IMMUTABLE, bytes))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InclusionQuery {
    index: LeafIndex,
    size: Option<TreeSize>,
}

pub(super) async fn inclusion(State(app): Shared, query: QueryOf<InclusionQuery>) -> Answered {
    let Query(InclusionQuery { index, size }) = query.map_err(query_error)?;
    let view = app.published();
    let size = within(size, &view)?;
    let hashes = view.inclusion(&app.store, index, size).map_err(from_view)?.0;
    Ok(Json(InclusionAnswer { index, size, hashes }).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsistencyQuery {
    old: TreeSize,
    new: Option<TreeSize>,
}

pub(super) async fn consistency(State(app): Shared, query: QueryOf<ConsistencyQuery>) -> Answered {
    let Query(ConsistencyQuery { old, new }) = query.map_err(query_error)?;
    let view = app.published();
    let new = within(new, &view)?;
    let hashes = view.consistency(&app.store, old, new).map_err(from_view)?.0;
    Ok(Json(ConsistencyAnswer { old, new, hashes }).into_response())
}

fn within(size: Option<TreeSize>, view: &View) -> Result<TreeSize, RequestError> {
    let size = size.unwrap_or(view.head.size);
    if size > view.head.size {
        return Err(RequestError::NotFound(format!(
            "tree of size {size} yet; the newest has {}",
            view.head.size
        )));
    }
    Ok(size)
}
