//! The tree: checkpoint, tiles and proofs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use sift_spec::api::{ConsistencyAnswer, InclusionAnswer, MEDIA_BYTES, MEDIA_NOTE};
use sift_spec::proof::ProofError;
use sift_spec::tile::{TILE_WIDTH, TileId, TilePath};
use sift_spec::types::{LeafIndex, TreeSize};

use super::answer::{Conditional, FRESH, IMMUTABLE, NotModified, Tag, answer, tagged, tagged_json};
use super::extract::{Path, Query};
use super::{Answered, App, Shared, from_view};
use crate::error::RequestError;
use crate::openapi::{Binary, problems};
use crate::view::{View, ViewError};

problems!(ReadProblems: MalformedRequest, NotFound, Internal);

/// The newest published checkpoint
#[utoipa::path(
    get,
    path = "/checkpoint",
    params(Conditional),
    responses(
        (status = 200, description = "A signed note (C2SP tlog-checkpoint)", body = String,
            content_type = "text/plain; charset=utf-8"),
        NotModified,
    )
)]
pub(super) async fn checkpoint(State(app): Shared, headers: HeaderMap) -> Response {
    tagged(&headers, MEDIA_NOTE, FRESH, app.published().checkpoint.clone())
}

/// A tile of hashes
///
/// 256 hashes, or as many as the partial tile's width says (C2SP tlog-tiles). It never changes.
#[utoipa::path(
    get,
    path = "/tile/{level}/{*n}",
    params(
        ("level" = u8, Path, maximum = 63, description = "Level, from 0", example = 0),
        ("n" = String, Path, pattern = "^(x[0-9]{3}/){0,6}[0-9]{3}([.]p/[1-9][0-9]{0,2})?$",
            description = "Index in groups of three digits, all but the last prefixed with `x`; for a partial tile \
                `.p/` and its width. Slashes may stand as they are", example = "000"),
        Conditional,
    ),
    responses(
        (status = 200, description = "Hashes of 32 bytes", body = inline(Binary),
            content_type = "application/octet-stream"),
        NotModified, ReadProblems,
    )
)]
pub(super) async fn hash_tile(
    State(app): Shared,
    Path((level, n)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answered {
    let path = format!("tile/{level}/{n}");
    let missing = || RequestError::NotFound(format!("{path} in this tree"));
    let Some(TilePath::Hashes { tile, width }) = TilePath::parse(&path) else { return Err(missing()) };
    if width > tile.width(app.published().head.size) {
        return Err(missing());
    }
    Ok(tagged(&headers, MEDIA_BYTES, IMMUTABLE, app.store.tile_bytes(tile, width)?))
}

/// A bundle of entries
///
/// Up to 256 entries, each after 16 bits of length (C2SP tlog-tiles). It never changes.
#[utoipa::path(
    get,
    path = "/tile/entries/{*n}",
    params(
        ("n" = String, Path, pattern = "^(x[0-9]{3}/){0,6}[0-9]{3}([.]p/[1-9][0-9]{0,2})?$",
            description = "Index in groups of three digits, all but the last prefixed with `x`; for a partial bundle \
                `.p/` and its width. Slashes may stand as they are", example = "000"),
        Conditional,
    ),
    responses(
        (status = 200, description = "Entries", body = inline(Binary), content_type = "application/octet-stream"),
        NotModified, ReadProblems,
    )
)]
pub(super) async fn entry_bundle(State(app): Shared, Path(n): Path<String>, headers: HeaderMap) -> Answered {
    let path = format!("tile/entries/{n}");
    let missing = || RequestError::NotFound(format!("{path} in this tree"));
    let Some(TilePath::Entries { index, width }) = TilePath::parse(&path) else { return Err(missing()) };
    let leaves = TileId { level: 0, index };
    if width > leaves.width(app.published().head.size) {
        return Err(missing());
    }
    // The leaf hashes determine the bundle and are a fraction of it.
    let tag = Tag::of(&app.store.tile_bytes(leaves, width)?);
    if let Some(not_modified) = tag.not_modified(&headers, IMMUTABLE) {
        return Ok(not_modified);
    }
    let bundle = app.store.bundle(index * TILE_WIDTH, width)?;
    Ok(tag.on(answer(MEDIA_BYTES, IMMUTABLE, bundle)))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InclusionQuery {
    /// Index of the entry.
    #[param(example = 0)]
    index: LeafIndex,
    /// Size of the tree; without it, that of the newest checkpoint.
    #[param(value_type = TreeSize, required = false, example = 1)]
    size: Option<TreeSize>,
}

/// Proof that an entry is in a tree
///
/// RFC 6962 §2.1.1, for the tree of any size that the log had. With a size it never changes.
#[utoipa::path(
    get,
    path = "/v1/proof/inclusion",
    params(InclusionQuery, Conditional),
    responses((status = 200, description = "The proof", body = InclusionAnswer), NotModified, ReadProblems)
)]
pub(super) async fn inclusion(
    State(app): Shared,
    Query(InclusionQuery { index, size }): Query<InclusionQuery>,
    headers: HeaderMap,
) -> Answered {
    let (view, size, caching) = within(&app, size)?;
    let hashes = match view.inclusion(&app.store, index, size) {
        Ok(proof) => proof.0,
        Err(ViewError::Request(ProofError::IndexOutside { .. })) => {
            return Err(RequestError::NotFound(format!("entry {index} in the tree of {size}")));
        }
        Err(error) => return Err(from_view(error)),
    };
    tagged_json(&headers, caching, &InclusionAnswer { index, size, hashes })
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConsistencyQuery {
    /// Size of the earlier tree.
    #[param(example = 1)]
    old: TreeSize,
    /// Size of the later tree; without it, that of the newest checkpoint.
    #[param(value_type = TreeSize, required = false, example = 2)]
    new: Option<TreeSize>,
}

/// Proof that a tree extends another
///
/// RFC 6962 §2.1.2, between trees of any two sizes that the log had. With both sizes it never changes.
#[utoipa::path(
    get,
    path = "/v1/proof/consistency",
    params(ConsistencyQuery, Conditional),
    responses((status = 200, description = "The proof", body = ConsistencyAnswer), NotModified, ReadProblems)
)]
pub(super) async fn consistency(
    State(app): Shared,
    Query(ConsistencyQuery { old, new }): Query<ConsistencyQuery>,
    headers: HeaderMap,
) -> Answered {
    let (view, new, caching) = within(&app, new)?;
    let hashes = view.consistency(&app.store, old, new).map_err(from_view)?.0;
    tagged_json(&headers, caching, &ConsistencyAnswer { old, new, hashes })
}

/// The tree and size that a proof is for, and how long the proof may be kept: one for a size that was asked for is always
/// the same. Without a size it is for the published tree; with one, for any that the log has signed: a writer was answered
/// under it, and may ask how it fits what was seen before.
fn within(app: &App, size: Option<TreeSize>) -> Result<(Arc<View>, TreeSize, &'static str), RequestError> {
    let published = app.published();
    let Some(size) = size else {
        let newest = published.head.size;
        return Ok((published, newest, FRESH));
    };
    if size <= published.head.size {
        return Ok((published, size, IMMUTABLE));
    }
    let committed = app.committed();
    if size > committed.head.size {
        let newest = committed.head.size;
        return Err(RequestError::NotFound(format!("tree of size {size} yet; the newest has {newest}")));
    }
    Ok((committed, size, IMMUTABLE))
}
