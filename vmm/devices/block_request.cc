// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/block_request.h"

namespace hearth::vmm {
namespace {

// VIRTIO 1.2, 5.2.6.
constexpr uint32_t kTypeIn = 0;
constexpr uint32_t kTypeOut = 1;
constexpr uint32_t kTypeFlush = 4;
constexpr uint32_t kTypeGetId = 8;

}  // namespace

std::optional<BlockRequest> ParseBlockRequest(DescriptorChain& chain) {
  BlockRequestHeader header;
  if (!chain.readable().CopyOutValue(header) || chain.writable().size() == 0) return std::nullopt;
  BlockRequest request;
  request.sector = header.sector.get();
  request.status = chain.writable().TakeLastByte();
  switch (header.type.get()) {
    case kTypeIn:
      request.command = BlockCommand::kRead;
      request.data = chain.writable();
      break;
    case kTypeOut:
      request.command = BlockCommand::kWrite;
      request.data = chain.readable();
      break;
    case kTypeFlush:
      request.command = BlockCommand::kFlush;
      break;
    case kTypeGetId:
      request.command = BlockCommand::kGetId;
      request.data = chain.writable();
      break;
    default:
      break;
  }
  return request;
}

}  // namespace hearth::vmm
