//! How QUIC is set up on both sides, each number with its reason.
//!
//! A lost agent must show within three seconds, so idle connections die before that and keep-alives
//! are frequent enough to survive two lost packets. Windows are small beside QUIC's usual ones: what
//! flows is text, and a peer that does not read should stall rather than fill our memory.

use std::time::Duration;

use quinn::{IdleTimeout, TransportConfig, VarInt};

/// A silent peer is gone: under the three seconds in which the fleet view must show a loss.
const MAX_IDLE: Duration = Duration::from_millis(2500);
/// Three chances within [`MAX_IDLE`].
const KEEP_ALIVE: Duration = Duration::from_millis(800);
/// What a round trip is taken for until one was measured. A handshake that is lost is then tried again after 0.3,
/// 0.9 and 2.1 s, and not only after 1 s of the 2.5: an agent that dials while the network is cut must be back
/// soon after it is not. On a slower network some packets are sent twice.
const FIRST_ROUND_TRIP: Duration = Duration::from_millis(100);
/// Streams that the coordinator may have open at an agent: dispatches in flight, with room; its queue is far shorter.
pub(crate) const MAX_WORK_STREAMS: u32 = 1024;
/// Streams that a peer may have open at the coordinator; agents need one. Each that is allowed costs memory from the
/// beginning of a handshake on, some 70 bytes: a thousand of them would be most of what an agent costs.
pub(crate) const MAX_CONTROL_STREAMS: u32 = 8;
/// Bytes in flight on one stream: a token is a few bytes, and a long prompt only takes more trips.
const STREAM_WINDOW: u32 = 512 * 1024;
/// Bytes in flight on one connection, over all streams.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// The conversation is over.
pub(crate) const CODE_DONE: VarInt = VarInt::from_u32(0);
/// No certificate that names a node.
pub(crate) const CODE_NO_CERTIFICATE: VarInt = VarInt::from_u32(1);
/// A certificate that was revoked.
pub(crate) const CODE_REVOKED: VarInt = VarInt::from_u32(3);
/// What arrived is not the protocol.
pub(crate) const CODE_PROTOCOL: VarInt = VarInt::from_u32(2);

/// Settings of a side at which its peer may have so many streams open.
pub(crate) fn transport(streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(MAX_IDLE).expect("the idle time fits QUIC's integers");
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(FIRST_ROUND_TRIP)
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW));
    config
}
