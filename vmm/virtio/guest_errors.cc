// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/guest_errors.h"

#include "absl/strings/str_cat.h"

namespace hearth::vmm {

void GuestErrors::Report(std::string_view device, std::string_view what) {
  ++count_;
  if (!log_ || !log_budget_.Take(1, MonotonicNs())) return;
  log_(absl::StrCat("guest error ", count_, ": ", absl::string_view(device.data(), device.size()),
                    ": ", absl::string_view(what.data(), what.size())));
}

}  // namespace hearth::vmm
