//! Error to response: the only file that picks a status for what the mesh itself answers.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode, Version};

use crate::error::{Error, Reason};
use crate::upstream::body::ResponseBody;

/// The header that says why the mesh answered in place of the application.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-tulle-reason");

/// The HTTP status of each reason.
pub fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::UnknownService | Reason::UnknownPort | Reason::NoRoute => StatusCode::NOT_FOUND,
        Reason::InvalidBackend | Reason::NoBackend => StatusCode::INTERNAL_SERVER_ERROR,
        Reason::Denied => StatusCode::FORBIDDEN,
        Reason::NoEndpoint
        | Reason::RequestLimit
        | Reason::PendingLimit
        | Reason::ConnectFailed
        | Reason::TlsFailed
        | Reason::Unsent
        | Reason::AppUnreachable
        | Reason::NoIdentity => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Reset | Reason::BadResponse | Reason::ClientGone => StatusCode::BAD_GATEWAY,
        Reason::TryTimeout | Reason::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// The gRPC status of each reason (grpc `statuscodes.md`, `http-grpc-status-mapping.md`).
pub fn grpc_status(reason: Reason) -> u8 {
    match reason {
        Reason::BadRequest => 13,
        Reason::UnknownService | Reason::UnknownPort | Reason::NoRoute => 12,
        Reason::Denied => 7,
        Reason::TryTimeout | Reason::RequestTimeout => 4,
        Reason::RequestLimit | Reason::PendingLimit => 8,
        Reason::InvalidBackend
        | Reason::NoBackend
        | Reason::NoEndpoint
        | Reason::ConnectFailed
        | Reason::TlsFailed
        | Reason::Unsent
        | Reason::AppUnreachable
        | Reason::NoIdentity
        | Reason::Reset
        | Reason::BadResponse
        | Reason::ClientGone => 14,
    }
}

/// What the response needs to know of the request it answers.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The request's version.
    pub version: Version,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Whether it asks for the head alone.
    pub head: bool,
}

impl Asked {
    /// Read from a request.
    pub fn of<B>(request: &http::Request<B>) -> Asked {
        Asked {
            version: request.version(),
            grpc: is_grpc(request.headers()),
            head: request.method() == Method::HEAD,
        }
    }
}

/// Whether the content type is gRPC's.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// The response for `error`; with `show_reason` it says why in a header and in its body.
pub fn respond(error: &Error, asked: Asked, show_reason: bool) -> Response<ResponseBody> {
    if asked.grpc {
        return grpc(error, show_reason);
    }
    let text = if show_reason && !asked.head {
        format!("tulle: {error}\n")
    } else {
        String::new()
    };
    let mut response = Response::new(ResponseBody::full(Bytes::from(text)));
    *response.status_mut() = status(error.reason);
    let headers = response.headers_mut();
    if show_reason {
        headers.insert(
            REASON_HEADER,
            HeaderValue::from_static(error.reason.as_str()),
        );
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    if error.reason == Reason::BadRequest && asked.version < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A trailers-only gRPC response.
fn grpc(error: &Error, show_reason: bool) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(grpc_status(error.reason))),
    );
    if show_reason {
        headers.insert(
            REASON_HEADER,
            HeaderValue::from_static(error.reason.as_str()),
        );
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&error.to_string())) {
            headers.insert("grpc-message", message);
        }
    }
    response
}

/// Percent-encoding of `grpc-message` (gRPC over HTTP/2): printable ASCII but `%` stays.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_an_error_status_in_both_worlds() {
        for &reason in Reason::ALL {
            let status = status(reason);
            assert!(
                status.is_client_error() || status.is_server_error(),
                "{reason:?}"
            );
            assert_ne!(grpc_status(reason), 0, "{reason:?}");
        }
    }

    #[test]
    fn a_hidden_reason_is_in_neither_header_nor_body() {
        let asked = Asked {
            version: Version::HTTP_11,
            grpc: false,
            head: false,
        };
        let response = respond(&Error::new(Reason::NoRoute, "cart"), asked, false);
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(response.headers().get(REASON_HEADER).is_none());
        assert_eq!(response.headers()[CONTENT_LENGTH], "0");
    }

    #[test]
    fn what_is_asked_for_by_head_has_no_body() {
        let request = http::Request::head("/").body(()).expect("a request");
        let error = Error::new(Reason::NoRoute, "cart");
        let response = respond(&error, Asked::of(&request), true);
        assert!(http_body::Body::is_end_stream(response.body()));
        assert_eq!(response.headers()[REASON_HEADER], "no-route");
    }

    #[test]
    fn grpc_gets_a_trailers_only_response() {
        let asked = Asked {
            version: Version::HTTP_2,
            grpc: true,
            head: false,
        };
        let response = respond(&Error::new(Reason::Denied, "100% no"), asked, true);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "denied: 100%25 no");
    }
}
