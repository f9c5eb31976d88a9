//! Two checkpoints of one log: does one extend the other, or did the log show two histories? (SPEC §7.1)

use sift_spec::proof::{Proof, ProofError, ProveError, TreeHead, prove_consistency, verify_consistency};
use sift_spec::tile::{TileError, TiledTree, Tiles};
use sift_spec::tree::{Nodes as _, RightEdge};
use sift_spec::trust::{TrustPolicy, VerifiedCheckpoint};
use sift_spec::types::{Hash, TreeSize};

use crate::checkpoint;
use crate::error::CannotCheck;
use crate::finding::{Code, Concern};
use crate::report::{Claim, Proven, Report, Verb};
use crate::source::{Source, SourceTiles};

/// What the proof comes from.
#[derive(Clone, Copy, Default)]
pub enum Basis<'a> {
    /// Nothing: enough for heads of equal size, or of an empty tree.
    #[default]
    None,
    /// A proof that was handed over.
    Proof(&'a Proof),
    /// A log, or a copy of one, to read tiles from; they are checked against the larger head.
    Log(&'a dyn Source),
}

/// Two heads of one log of which one extends the other.
#[derive(Debug)]
struct VerifiedConsistency {
    old: TreeHead,
    new: TreeHead,
    _assertion: (),
}

impl Proven for VerifiedConsistency {
    fn claim(&self) -> Claim {
        let detail = match (self.old.size, self.new.size) {
            (old, new) if old == new => format!("both heads are the tree of {old} entries"),
            (old, new) => {
                format!("the tree of {new} entries starts with the tree of {old} entries, unchanged")
            }
        };
        Claim { what: "consistency", count: 1, detail }
    }
}

/// Checks that of two checkpoints of one log, in any order, the larger extends the smaller.
///
/// # Errors
/// When the checkpoints are of two logs, a proof is needed and there is none, or tiles cannot be read.
pub fn verify(
    first: &[u8],
    second: &[u8],
    basis: Basis<'_>,
    trust: &TrustPolicy,
) -> Result<Report, CannotCheck> {
    let mut report = Report::new(Verb::Consistency, "two checkpoints");
    compare(first, second, basis, trust, &mut report)?;
    Ok(report)
}

/// Does what [`verify`] does, as a part of another report.
pub(crate) fn compare(
    first: &[u8],
    second: &[u8],
    basis: Basis<'_>,
    trust: &TrustPolicy,
    report: &mut Report,
) -> Result<(), CannotCheck> {
    // 1. Both checkpoints are believed.
    let first = checkpoint::verify(first, trust, "first checkpoint", report);
    let second = checkpoint::verify(second, trust, "second checkpoint", report);
    let (Some(first), Some(second)) = (first, second) else { return Ok(()) };
    // 2. They are of one log.
    let [(old, old_by), (new, new_by)] = sorted(&first, &second);
    if old_by.checkpoint().origin != new_by.checkpoint().origin {
        let origin = |by: &VerifiedCheckpoint| by.checkpoint().origin.to_string();
        return Err(CannotCheck::TwoLogs(origin(&first), origin(&second)));
    }
    // 3. Equal sizes have equal roots; the empty tree is the start of every other.
    let split = || {
        format!("tree of {} with root {}; tree of {} with root {}", old.size, old.root, new.size, new.root)
    };
    let trivial = old.size == new.size || old.size == TreeSize::ZERO;
    let proof = match basis {
        _ if trivial => Proof::default(),
        Basis::None => return Err(CannotCheck::NoProof(old.size.get(), new.size.get())),
        Basis::Proof(proof) => proof.clone(),
        // 4. Tiles are believed where they prove themselves a part of the larger tree, and then say what the root of the
        //    smaller one is. Where they do not, their source is at fault, and nothing is said of the log.
        Basis::Log(source) => match extension(source, &old, &new)? {
            Extension::Proven(proof) | Extension::Split(proof) => proof,
            Extension::NotItsTiles => {
                report.reject(Code::TileDiffers, Concern::whole(), not_its_tiles(source, &new));
                return Ok(());
            }
        },
    };
    // 5. The proof proves it.
    match verify_consistency(&old, &new, &proof) {
        Ok(()) => report.claim(&VerifiedConsistency { old, new, _assertion: () }),
        Err(ProofError::Root) if trivial || matches!(basis, Basis::Log(_)) => {
            report.reject(Code::HeadsInconsistent, Concern::whole(), split());
        }
        Err(error) => {
            report.reject(Code::ConsistencyUnproven, Concern::whole(), format!("{error}: {}", split()));
        }
    }
    Ok(())
}

/// Smaller tree first.
fn sorted<'a>(
    first: &'a VerifiedCheckpoint,
    second: &'a VerifiedCheckpoint,
) -> [(TreeHead, &'a VerifiedCheckpoint); 2] {
    let mut pair = [first, second].map(|by| (by.checkpoint().head, by));
    pair.sort_by_key(|(head, _)| head.size);
    pair
}

/// What the tiles of a source say about two heads, neither of them of the empty tree, of different sizes.
pub(crate) enum Extension {
    /// The larger tree extends the smaller: by this proof.
    Proven(Proof),
    /// The tiles are those of the larger tree, and it starts with another tree of the smaller size: as this proof shows.
    Split(Proof),
    /// The tiles are not those of the larger tree: nothing is said of the log.
    NotItsTiles,
}

/// Reads the tiles of a source to learn whether the tree `new` extends the smaller tree `old`.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn extension(
    source: &dyn Source,
    old: &TreeHead,
    new: &TreeHead,
) -> Result<Extension, CannotCheck> {
    let Some((row, proof)) = prefix(source, &SourceTiles(source), new, old.size)? else {
        return Ok(Extension::NotItsTiles);
    };
    let same = RightEdge::from_row(old.size, row).is_some_and(|edge| edge.root() == old.root);
    Ok(if same { Extension::Proven(proof) } else { Extension::Split(proof) })
}

/// What is to be said of [`Extension::NotItsTiles`].
pub(crate) fn not_its_tiles(source: &dyn Source, new: &TreeHead) -> String {
    let (name, size, root) = (source.name(), new.size, new.root);
    format!("the tiles of {name} are not those of the tree of {size} with root {root}")
}

/// The right edge that the tree of `head` had at the size `at`, with the proof that it had; `None` where the tiles,
/// which `source` serves, are not those of that tree.
///
/// # Errors
/// When tiles cannot be read.
pub(crate) fn prefix<T: Tiles<Error = CannotCheck>>(
    source: &dyn Source,
    tiles: &T,
    head: &TreeHead,
    at: TreeSize,
) -> Result<Option<(Vec<Hash>, Proof)>, CannotCheck> {
    let tree = TiledTree::new(head.size, tiles);
    let unfit = |why: String| CannotCheck::Fetch { log: source.name(), path: "tile".to_owned(), why };
    let broken = |error: TileError<CannotCheck>| match error {
        TileError::Read(error) => error,
        error @ TileError::Narrow(_) => unfit(error.to_string()),
    };
    let row = tree.read(&RightEdge::nodes(at)).map_err(broken)?;
    let edge =
        RightEdge::from_row(at, row.clone()).ok_or_else(|| unfit(format!("they have no tree of {at}")))?;
    let proof = prove_consistency(at, head.size, &tree).map_err(|error| match error {
        ProveError::Read(error) => broken(error),
        ProveError::Request(error) => unfit(error.to_string()),
    })?;
    let found = TreeHead { size: at, root: edge.root() };
    Ok(verify_consistency(&found, head, &proof).is_ok().then_some((row, proof)))
}
