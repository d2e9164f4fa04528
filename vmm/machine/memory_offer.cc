// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/memory_offer.h"

#include <fcntl.h>

#include "hearth/vmm/v1/vmm.pb.h"
#include "vmm/snapshot/memory_file.h"
#include "wire/fd_socket.h"

namespace hearth::vmm {
namespace {

// For one small frame into a socket that nobody has written to.
constexpr int kOfferTimeoutMs = 5000;

}  // namespace

absl::Status OfferMemory(const UniqueFd& socket, UniqueFd userfaultfd, const GuestMemory& memory) {
  v1::MemoryOffer offer;
  offer.set_userfaultfd_fd(0);
  offer.set_page_bytes(kGuestPageBytes);
  uint64_t offset = 0;
  for (const auto& region : memory.regions()) {
    v1::MemoryRange& range = *offer.add_ranges();
    range.set_address(reinterpret_cast<uint64_t>(region.mapping.data()));
    range.set_size_bytes(region.mapping.size_bytes());
    range.set_file_offset(offset);
    offset += region.mapping.size_bytes();
  }
  UniqueFd copy(fcntl(socket.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return ErrnoStatus("duplicating the pager's socket");
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(userfaultfd));
  return wire::FdSocket(std::move(copy))
      .BlockingSend(offer.SerializeAsString(), std::move(fds), kOfferTimeoutMs);
}

}  // namespace hearth::vmm
