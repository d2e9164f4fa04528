// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "vmm/memory/endian.h"

namespace hearth::vmm {

inline constexpr uint64_t kVsockHostCid = 2;

// struct virtio_vsock_hdr (VIRTIO 1.2, 5.10.6).
struct VsockHeader {
  Le64 src_cid;
  Le64 dst_cid;
  Le32 src_port;
  Le32 dst_port;
  Le32 len;
  Le16 type;
  Le16 op;
  Le32 flags;
  Le32 buf_alloc;
  Le32 fwd_cnt;
};
static_assert(sizeof(VsockHeader) == 44 && offsetof(VsockHeader, fwd_cnt) == 40);

inline constexpr uint16_t kVsockTypeStream = 1;

enum class VsockOp : uint16_t {
  kRequest = 1,
  kResponse = 2,
  kReset = 3,
  kShutdown = 4,
  kData = 5,
  kCreditUpdate = 6,
  kCreditRequest = 7,
};

// struct virtio_vsock_event (5.10.6.7): communication was interrupted, all connections are gone.
inline constexpr uint32_t kVsockEventTransportReset = 0;
struct VsockEvent {
  Le32 id;
};
static_assert(sizeof(VsockEvent) == 4);

// Flags of kShutdown: the sender will not receive, will not send any more.
inline constexpr uint32_t kVsockShutdownReceive = 1;
inline constexpr uint32_t kVsockShutdownSend = 2;
inline constexpr uint32_t kVsockShutdownBoth = kVsockShutdownReceive | kVsockShutdownSend;

}  // namespace hearth::vmm
