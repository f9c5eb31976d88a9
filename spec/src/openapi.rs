//! Schemas of the types that parse themselves, for the OpenAPI document of the log.
//!
//! A pattern says what a type's constructor takes, as closely as a regular expression can. The constructor decides.
//! Schemas of plain structures are derived where they are defined, in [`crate::api`].

use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::{Place, ProblemKind};
use crate::types::{
    AGENT_NAME_BYTES_MAX, AgentName, Hash, INTEGER_MAX, KEY_NAME_BYTES_MAX, KeyName, LeafIndex, RunId, Seq,
    TreeSize, UnixMillis,
};

macro_rules! schema {
    ($name:ident, $schema:expr) => {
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                RefOr::T(Schema::Object($schema.build()))
            }
        }
        impl ToSchema for $name {}
    };
}

schema!(LeafIndex, integer("Position of an entry in the log, from 0.", 3));
schema!(TreeSize, integer("Number of entries in a tree.", 10));
schema!(Seq, integer("Position of a record in its run or in the operator's chain, from 0.", 1));
schema!(UnixMillis, integer("Milliseconds since 1970-01-01T00:00:00Z.", 1_764_000_000_123));
schema!(
    Hash,
    text(
        "A SHA-256 value in standard padded base64.",
        // The last character carries four bits.
        "^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    )
);
schema!(
    RunId,
    text(
        "A run: a UUID of version 7, lower case with hyphens.",
        "^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
        "019ab697-e800-7a5a-9a5a-5a5a5a5a5a5a",
    )
    .format(Some(SchemaFormat::Custom("uuid".to_owned())))
);
schema!(
    AgentName,
    text("Name of an agent.", "^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", "airline/gpt-4o")
        .max_length(Some(AGENT_NAME_BYTES_MAX))
);
schema!(
    KeyName,
    text("Name of a key, or origin of a log.", r"^[^\s+]+$", "acme.example/kernel/1")
        .max_length(Some(KEY_NAME_BYTES_MAX))
);
schema!(
    Place,
    text(
        "A place in a chain: a run or `operator`, a slash, and a seq.",
        "^(operator|[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})/(0|[1-9][0-9]{0,14})$",
        "019ab697-e800-7a5a-9a5a-5a5a5a5a5a5a/1",
    )
);

schema!(
    ProblemKind,
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("What kind of problem: a closed list."))
        .enum_values(Some(ProblemKind::ALL.iter().map(|kind| kind.urn())))
);

fn integer(description: &str, example: u64) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0))
        .maximum(Some(INTEGER_MAX as isize))
        .description(Some(description))
        .examples([example])
}

fn text(description: &str, pattern: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(pattern))
        .description(Some(description))
        .examples([Value::from(example)])
}
