//! Why TLS connections fail.
#![forbid(unsafe_code)]

/// Declares each failure once: `Name = "label"`.
macro_rules! failures {
    ($( $(#[doc = $doc:literal])+ $name:ident = $label:literal, )+) => {
        /// Why a TLS connection failed, for counters and for the alert to the peer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum TlsFailure {
            $( $(#[doc = $doc])+ $name, )+
        }

        impl TlsFailure {
            /// All variants, in the order of [`TlsFailure::index`].
            pub const ALL: [TlsFailure; TlsFailure::COUNT] = [$( TlsFailure::$name, )+];

            /// Number of variants.
            pub(crate) const COUNT: usize = [$( $label, )+].len();

            /// Label of counters.
            pub const fn label(self) -> &'static str {
                match self { $( TlsFailure::$name => $label, )+ }
            }
        }
    };
}

failures! {
    /// Version, cipher suite or ALPN: the two sides have none in common.
    Incompatible = "incompatible",
    /// The client's certificate is missing or not accepted.
    ClientCertificate = "client_certificate",
    /// A handshake message is wrong.
    BadHandshake = "bad_handshake",
    /// The handshake is larger than that of any real client.
    HandshakeTooLarge = "handshake_too_large",
    /// The handshake was not complete in time.
    HandshakeTimeout = "handshake_timeout",
    /// The peer ended the connection during the handshake.
    HungUp = "hung_up",
    /// The peer sent a fatal alert.
    PeerAlert = "peer_alert",
    /// The tag of a record is wrong.
    BadRecordMac = "bad_record_mac",
    /// A record is too long.
    RecordOverflow = "record_overflow",
    /// A message that is not allowed here, or too many that carry no data.
    UnexpectedMessage = "unexpected_message",
    /// A message that cannot be read.
    DecodeError = "decode_error",
    /// A field has an impossible value.
    IllegalParameter = "illegal_parameter",
    /// The peer asked for renegotiation in TLS 1.2.
    Renegotiation = "renegotiation",
    /// A record came in pieces while all spill buffers were in use.
    NoSpillBuffer = "no_spill_buffer",
    /// A TLS 1.2 connection has sent as many records as one key may seal.
    KeyExhausted = "key_exhausted",
    /// The TLS library failed for another reason.
    Internal = "internal",
}

impl TlsFailure {
    /// Index in arrays of [`TlsFailure::COUNT`] elements.
    pub const fn index(self) -> usize {
        self as usize
    }
}
