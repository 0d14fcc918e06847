//! What the guard reads from a request's HTTP headers, and the reasons that it adds to statuses of
//! tonic.

use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use tonic::{Code, Status, body::Body};
use tonic_types::StatusExt as _;

use crate::{
    error::{Error, Result},
    proto::PACKAGE,
};

/// The answer to a request that is not gRPC, `None` if it is. Such requests must have no effect: a
/// web page in a browser could send them to a service that runs without credentials. A browser
/// sends other content types only after a preflight request.
pub(super) fn refuse_non_grpc<B>(request: &Request<B>) -> Option<Response<Body>> {
    let is_grpc = |value: &header::HeaderValue| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    let refusal = if request.method() != Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else if !request.headers().get(header::CONTENT_TYPE).is_some_and(is_grpc) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else {
        return None;
    };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = refusal;
    Some(response)
}

/// The size of headers as HTTP/2 counts it (RFC 9113, section 6.5.2).
pub(super) fn headers_len(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Whether a path is that of a call of this contract.
pub(super) fn is_in_contract(path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(PACKAGE))
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The `grpc-timeout` of the request: at most eight digits and a unit (gRPC over HTTP/2).
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let parse = || {
        let (digits, unit) = value.to_str().ok()?.split_at_checked(value.len().checked_sub(1)?)?;
        let amount = digits
            .parse()
            .ok()
            .filter(|_| digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_digit()))?;
        Some(match unit {
            "H" => Duration::from_secs(amount * 3600),
            "M" => Duration::from_secs(amount * 60),
            "S" => Duration::from_secs(amount),
            "m" => Duration::from_millis(amount),
            "u" => Duration::from_micros(amount),
            "n" => Duration::from_nanos(amount),
            _ => return None,
        })
    };
    parse().map(Some).ok_or_else(|| {
        Error::invalid("grpc-timeout", "must be up to eight digits and one of H M S m u n")
    })
}

/// Adds the reason that the contract promises to an error that tonic answered itself, which has no
/// details. INTERNAL from tonic means that it could not read a message from the request; an
/// internal error of a call has details.
pub(super) fn with_reason(response: Response<Body>, path: &str) -> Response<Body> {
    let headers = response.headers();
    if headers.get("grpc-status").is_none_or(|code| code == "0")
        || headers.contains_key("grpc-status-details-bin")
    {
        return response;
    }
    let Some(status) = Status::from_header_map(headers) else { return response };
    let error = match status.code() {
        Code::OutOfRange => Error::RequestTooLarge,
        Code::Internal => Error::MalformedRequest,
        Code::Unimplemented => Error::unimplemented(path),
        _ => return response,
    };
    let explained = Status::from(error);
    let message = if status.message().is_empty() { explained.message() } else { status.message() };
    let details = explained.get_error_details();
    Status::with_error_details_and_metadata(
        explained.code(),
        message,
        details,
        status.metadata().clone(),
    )
    .into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        let parse = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            grpc_timeout(&headers).ok().flatten()
        };
        for (value, limit) in [
            ("1S", Some(Duration::from_secs(1))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("100000000S", None),
            ("S", None),
            ("", None),
            ("1", None),
            ("-1S", None),
            ("+1S", None),
            ("1s", None),
            ("1é", None),
        ] {
            assert_eq!(parse(value), limit, "{value:?}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()).unwrap(), None);
    }
}
