// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/block_bytes.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

using nlohmann::json;

// The member of that name, or null when `object` is none or has it not.
const json* Member(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() ? nullptr : &*found;
}

absl::StatusOr<uint64_t> Bytes(const json& device, const char* name) {
  const json* const stats = Member(device, "stats");
  const json* const bytes = stats != nullptr ? Member(*stats, name) : nullptr;
  if (bytes == nullptr || !bytes->is_number_unsigned()) {
    return absl::InternalError(absl::StrCat("QEMU does not tell the ", name, " of a disk"));
  }
  return bytes->get<uint64_t>();
}

}  // namespace

absl::StatusOr<BlockBytes> ParseBlockBytes(absl::string_view answer) {
  if (answer.size() > kMaxBlockStatsBytes) {
    return absl::InternalError(absl::StrCat("QEMU tells of its disks in ", answer.size(),
                                            " bytes, the limit is ", kMaxBlockStatsBytes));
  }
  const json parsed = json::parse(answer.begin(), answer.end(), nullptr,
                                  /*allow_exceptions=*/false);
  const json* const devices = Member(parsed, "return");
  if (devices == nullptr || !devices->is_array()) {
    return absl::InternalError("QEMU's answer about its disks is none");
  }
  BlockBytes sum;
  for (const json& device : *devices) {
    ASSIGN_OR_RETURN(const uint64_t read, Bytes(device, "rd_bytes"));
    ASSIGN_OR_RETURN(const uint64_t written, Bytes(device, "wr_bytes"));
    sum.read += read;
    sum.written += written;
  }
  return sum;
}

}  // namespace hearth::libvirt
