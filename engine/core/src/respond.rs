//! Error to response: the only file that picks a status for what the mesh itself answers.

use http::StatusCode;

use crate::error::{Error, Reason};
use crate::fields::Fields;
use crate::head::{Length, ResponseHead};

/// The header that says why the mesh answered in place of the application.
pub const REASON_HEADER: &str = "x-tulle-reason";

/// The HTTP status of each reason.
pub fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::BadRequest => StatusCode::BAD_REQUEST,
        Reason::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::TargetTooLong => StatusCode::URI_TOO_LONG,
        Reason::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
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
        Reason::ClientGone => 1,
        Reason::BadRequest | Reason::HeadTooLarge | Reason::TargetTooLong => 13,
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
        | Reason::ClientTimeout => 14,
    }
}

/// The trailers of a call that ends so in the middle.
pub fn end_of_call(reason: Reason) -> Fields {
    let mut trailers = Fields::default();
    let status = grpc_status(reason).to_string();
    trailers.append(b"grpc-status", status.as_bytes());
    trailers
}

/// The response for `error`, and its body; with `show_reason` both say why.
pub fn respond(error: &Error, grpc: bool, show_reason: bool) -> (ResponseHead, String) {
    let mut head = ResponseHead::new(status(error.reason), Length::None);
    let mut text = String::new();
    let fields = &mut head.fields;
    if show_reason {
        let reason = error.reason.as_str();
        fields.append(REASON_HEADER.as_bytes(), reason.as_bytes());
    }
    if grpc {
        // Trailers-only: a success of HTTP whose head has the status.
        head.status = StatusCode::OK;
        fields.append(b"content-type", b"application/grpc");
        let status = grpc_status(error.reason).to_string();
        fields.append(b"grpc-status", status.as_bytes());
        if show_reason {
            let message = percent_encode(&error.to_string());
            fields.append(b"grpc-message", message.as_bytes());
        }
    } else if show_reason {
        fields.append(b"content-type", b"text/plain; charset=utf-8");
        text = format!("tulle: {error}\n");
    }
    (head, text)
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
        let error = Error::new(Reason::NoRoute, "cart");
        let (head, text) = respond(&error, false, false);
        assert_eq!(head.status, StatusCode::NOT_FOUND);
        assert!(head.fields.names().is_empty());
        assert!(text.is_empty());
    }

    #[test]
    fn grpc_gets_a_trailers_only_response() {
        let (head, text) = respond(&Error::new(Reason::Denied, "100% no"), true, true);
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.fields.get("grpc-status").as_deref(), Some("7"));
        let message = head.fields.get("grpc-message");
        assert_eq!(message.as_deref(), Some("denied: 100%25 no"));
        assert!(text.is_empty());
    }
}
