// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>

#include "vmm/memory/endian.h"
#include "vmm/memory/guest_buffer.h"
#include "vmm/virtio/virtqueue.h"

namespace hearth::vmm {

inline constexpr uint64_t kSectorBytes = 512;
inline constexpr size_t kBlockIdBytes = 20;

// struct virtio_blk_req's fixed head (VIRTIO 1.2, 5.2.6).
struct BlockRequestHeader {
  Le32 type;
  Le32 reserved;
  Le64 sector;
};
static_assert(sizeof(BlockRequestHeader) == 16);

enum class BlockStatus : uint8_t { kOk = 0, kIoError = 1, kUnsupported = 2 };

enum class BlockCommand { kRead, kWrite, kFlush, kGetId, kUnsupported };

// A request as a plain value. `data` is where to read to (kRead, kGetId) or to write from (kWrite);
// it points into the chain it was parsed from.
struct BlockRequest {
  BlockCommand command = BlockCommand::kUnsupported;
  uint64_t sector = 0;
  GuestBuffer data;
  GuestSpan status;  // One byte.
};

// Nothing when the chain has no room for a header or a status byte: then there is nothing to
// answer with, and the driver is broken. Judges neither sector nor length.
std::optional<BlockRequest> ParseBlockRequest(DescriptorChain& chain);

}  // namespace hearth::vmm
