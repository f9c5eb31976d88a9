//! The OpenAPI document and the router, made from one table of handlers.
//!
//! A handler's `#[utoipa::path]` says its method, its path, its parameters and its answers; the table in
//! [`crate::routes`] names the handler. The router takes method and path from the document, so neither can hold what
//! the other does not. The name of a handler is the id of its operation: no two have the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::routing::{MethodFilter, MethodRouter};
use sift_spec::api::{MEDIA_PROBLEM, ProblemKind};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::routes::App;
use crate::routes::treatment::Treatment;

/// Reads that never need a token.
const OPEN: [&str; 2] = ["healthz", "readyz"];

/// A handler in the table: `routes!` makes it.
pub(crate) struct Route {
    /// Name of the handler and id of its operation.
    pub(crate) operation: &'static str,
    /// What is done to its answers.
    pub(crate) treatment: Treatment,
    /// The handler, for a method.
    pub(crate) on: fn(MethodFilter) -> MethodRouter<Arc<App>>,
}

/// Makes `fn table() -> Vec<Route>` and the type `Document` from handlers by treatment.
macro_rules! routes {
    ($($treatment:ident { $($module:ident :: $handler:ident),* $(,)? })*) => {
        #[derive(utoipa::OpenApi)]
        #[openapi(
            info(
                title = "Sift transparency log",
                description = "What the parts mean is in SPEC.md, section 10. What is signed or hashed is sent as the \
                    bytes it is, never as JSON."
            ),
            paths($($($module::$handler),*),*),
            components(schemas(sift_spec::api::Problem))
        )]
        struct Document;

        pub(crate) fn table() -> Vec<$crate::openapi::Route> {
            vec![$($($crate::openapi::Route {
                operation: stringify!($handler),
                treatment: $crate::routes::treatment::Treatment::$treatment,
                on: |method| axum::routing::on(method, $module::$handler),
            }),*),*]
        }
    };
}
pub(crate) use routes;

/// Methods and paths of an operation.
pub(crate) fn places<'a>(
    document: &'a OpenApi,
    operation: &'a str,
) -> impl Iterator<Item = (MethodFilter, &'a str)> {
    operations(document)
        .filter(move |(_, _, found)| found.operation_id.as_deref() == Some(operation))
        .map(|(method, path, _)| (method, path))
}

/// Every operation of a document with its method and path.
fn operations(document: &OpenApi) -> impl Iterator<Item = (MethodFilter, &str, &Operation)> {
    document.paths.paths.iter().flat_map(|(path, item)| {
        let methods = [
            (MethodFilter::GET, &item.get),
            (MethodFilter::PUT, &item.put),
            (MethodFilter::POST, &item.post),
            (MethodFilter::DELETE, &item.delete),
        ];
        methods.into_iter().filter_map(move |(method, operation)| {
            operation.as_ref().map(|operation| (method, path.as_str(), operation))
        })
    })
}

/// The document as it is served. A wildcard such as `{*n}` is the router's notation; in a template of OpenAPI the
/// parameter's pattern says that it holds slashes.
pub(crate) fn serve(mut document: OpenApi) -> Vec<u8> {
    let paths = std::mem::take(&mut document.paths.paths);
    document.paths.paths = paths.into_iter().map(|(path, item)| (path.replace("{*", "{"), item)).collect();
    // A log may ask readers for a token, whatever they read.
    let unauthorized = problem_responses(&[ProblemKind::Unauthorized]);
    for item in document.paths.paths.values_mut() {
        let reads = item
            .get
            .iter_mut()
            .filter(|read| !OPEN.contains(&read.operation_id.as_deref().unwrap_or_default()));
        for read in reads {
            for (status, answer) in &unauthorized {
                read.responses.responses.entry(status.clone()).or_insert_with(|| answer.clone());
            }
        }
    }
    serde_json::to_vec(&document).unwrap_or_default()
}

/// A type of answers that names the problems which a handler answers with.
macro_rules! problems {
    ($name:ident: $($kind:ident),+ $(,)?) => {
        pub(crate) struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::Response>,
            > {
                $crate::openapi::problem_responses(&[$(sift_spec::api::ProblemKind::$kind),+])
            }
        }
    };
}
pub(crate) use problems;

/// One answer for each status that these problems have.
pub(crate) fn problem_responses(kinds: &[ProblemKind]) -> BTreeMap<String, RefOr<Response>> {
    let mut statuses: BTreeMap<u16, Vec<ProblemKind>> = BTreeMap::new();
    for kind in kinds {
        statuses.entry(kind.status()).or_default().push(*kind);
    }
    let answer = |(status, kinds): (u16, Vec<ProblemKind>)| {
        let titles: Vec<&str> = kinds.iter().map(|kind| kind.title()).collect();
        let urns = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(kinds.iter().map(|kind| kind.urn())));
        let only = ObjectBuilder::new()
            .property("type", urns)
            .property("status", ObjectBuilder::new().schema_type(Type::Integer).enum_values(Some([status])));
        let schema = AllOfBuilder::new().item(Ref::from_schema_name("Problem")).item(only);
        let content = ContentBuilder::new().schema(Some(Schema::from(schema))).build();
        let mut response =
            ResponseBuilder::new().description(titles.join("; ")).content(MEDIA_PROBLEM, content);
        if matches!(status, 429 | 503) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
            let header = HeaderBuilder::new()
                .schema(Some(Schema::from(seconds)))
                .description(Some("Seconds after which to try again."));
            response = response.header("Retry-After", header.build());
        }
        (status.to_string(), RefOr::T(response.build()))
    };
    statuses.into_iter().map(answer).collect()
}

/// A body of bytes that are not text.
pub(crate) struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::Custom("binary".to_owned());
        RefOr::T(ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into())
    }
}

impl ToSchema for Binary {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::routes::{document, table};

    #[test]
    fn router_and_document_hold_the_same() {
        let document = document();
        let table = table();
        let routed: BTreeSet<&str> = table.iter().map(|route| route.operation).collect();
        assert_eq!(routed.len(), table.len(), "two handlers have one name");
        for route in &table {
            assert_eq!(places(&document, route.operation).count(), 1, "{}", route.operation);
        }
        let documented: Vec<&str> =
            operations(&document).filter_map(|(_, _, operation)| operation.operation_id.as_deref()).collect();
        assert_eq!(documented.len(), routed.len());
        assert_eq!(documented.into_iter().collect::<BTreeSet<_>>(), routed);
    }

    #[test]
    fn every_operation_tells_its_failures_and_every_parameter_what_it_is() {
        let document: serde_json::Value = serde_json::from_slice(&serve(document())).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        for (path, item) in document["paths"].as_object().unwrap() {
            assert!(!path.contains('*'), "{path}");
            for (method, operation) in item.as_object().unwrap() {
                let place = format!("{method} {path}");
                assert!(operation["summary"].is_string(), "{place} has no summary");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    assert!(parameter["description"].is_string(), "{place}: {parameter}");
                    assert!(parameter["schema"].is_object(), "{place}: {parameter}");
                }
                let templated = path.matches('{').count();
                let in_path = operation["parameters"].as_array().map_or(0, |parameters| {
                    parameters.iter().filter(|parameter| parameter["in"] == "path").count()
                });
                assert_eq!(templated, in_path, "{place}");
                for (status, answer) in operation["responses"].as_object().unwrap() {
                    let problem = answer["content"].get(MEDIA_PROBLEM).is_some();
                    assert_eq!(problem, status.starts_with(['4', '5']), "{place}: {status}");
                }
            }
        }
        // Every reference leads somewhere.
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
    }
}
