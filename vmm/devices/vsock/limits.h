// SPDX-License-Identifier: Apache-2.0
// The limits of the vsock device. The most memory a guest can make it hold is
// kVsockMaxConnections x (kVsockBufferBytes + some 300 bytes), 32 MiB, and that only while the
// host's ends read nothing; an idle connection holds no buffer.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::vmm {

// VIRTIO 1.2, 5.10.2.
inline constexpr uint16_t kVsockReceiveQueue = 0;
inline constexpr uint16_t kVsockTransmitQueue = 1;
inline constexpr uint16_t kVsockEventQueue = 2;

inline constexpr uint16_t kVsockDataQueueSize = 128;
inline constexpr uint16_t kVsockEventQueueSize = 16;

// Host ports of connections that the host opens: high, so that they never meet declared ones.
inline constexpr uint32_t kVsockFirstHostPort = 0x40000000;

// Host ports that the guest may connect to.
inline constexpr size_t kVsockMaxPorts = 16;
// Connections of both directions, half-open and closing ones included.
inline constexpr size_t kVsockMaxConnections = 256;
// What a connection buffers for a host end that does not read: the credit the guest is given.
inline constexpr uint32_t kVsockBufferBytes = 128 * 1024;
// The most data in a packet to the guest; Linux's driver sends no longer ones either.
inline constexpr uint32_t kVsockMaxPacketBytes = 64 * 1024;
// Answers to packets of no connection that wait for receive buffers; beyond that the transmit
// queue waits.
inline constexpr size_t kVsockMaxReplies = 256;
// Packets handled in one turn, in each direction, before other work of the loop gets its own.
inline constexpr size_t kVsockTurnPackets = 256;

// Connections that the guest opens: each costs the controller a message.
inline constexpr uint64_t kVsockConnectBurst = 256;
inline constexpr uint64_t kVsockConnectsPerSecond = 64;

// How long the guest may take to answer a connect, to answer the end of a connection, and to take
// the rest of what a host end wrote before it was closed (each packet taken starts it anew).
inline constexpr uint64_t kVsockConnectTimeoutNs = 10'000'000'000;
inline constexpr uint64_t kVsockCloseTimeoutNs = 8'000'000'000;
inline constexpr uint64_t kVsockLingerTimeoutNs = 60'000'000'000;
// Deadlines are looked at this often, while there are any.
inline constexpr uint64_t kVsockSweepIntervalNs = 1'000'000'000;

}  // namespace hearth::vmm
