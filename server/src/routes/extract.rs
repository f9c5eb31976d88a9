//! Parameters of requests, checked. What is wrong with them is a problem like any other.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::RequestError;

/// Parameters in the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = RequestError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, RequestError> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(error) => Err(RequestError::Malformed(error.body_text())),
        }
    }
}

/// Parameters in the query.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = RequestError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RequestError> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(error) => Err(RequestError::Malformed(error.body_text())),
        }
    }
}

/// A type of page lengths: at least 1, at most a maximum that the document tells too.
macro_rules! page_limit {
    ($name:ident, $max:expr, $default:expr) => {
        #[derive(Debug, Clone, Copy, serde::Deserialize)]
        #[serde(try_from = "u64")]
        pub(crate) struct $name(usize);

        impl $name {
            pub(crate) const fn get(self) -> usize {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl TryFrom<u64> for $name {
            type Error = String;
            fn try_from(value: u64) -> Result<Self, String> {
                match usize::try_from(value) {
                    Ok(limit) if (1..=$max).contains(&value) => Ok(Self(limit)),
                    _ => Err(format!("limit: not 1 to {}", $max)),
                }
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let limit = utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::Type::Integer)
                    .minimum(Some(1))
                    .maximum(Some($max as isize))
                    .default(Some(serde_json::Value::from($default)));
                utoipa::openapi::RefOr::T(limit.into())
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use page_limit;
