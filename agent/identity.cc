// SPDX-License-Identifier: Apache-2.0
#include "agent/identity.h"

#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "agent/files.h"
#include "vmm/base/status.h"

namespace hearth::agent {
namespace {

constexpr size_t kUuidLength = 36;
constexpr size_t kMachineIdLength = 32;

bool IsDash(size_t position) {
  return position == 8 || position == 13 || position == 18 || position == 23;
}

// All ids of a kind have one length, so that a new one covers the old one in a single write.
absl::Status WriteId(const UniqueFd& file, absl::string_view id) {
  const std::string line = absl::StrCat(id, "\n");
  if (pwrite(file.get(), line.data(), line.size(), 0) != static_cast<ssize_t>(line.size())) {
    return ErrnoStatus("write an id");
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> MakeIdFile(const std::string& path) {
  unlink(path.c_str());  // The runtime's image may have one, or a link.
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0444));
  if (!file || fchmod(file.get(), 0444) != 0) return ErrnoStatus(absl::StrCat("make ", path));
  return file;
}

}  // namespace

absl::StatusOr<Identity> Identity::Create(const std::string& boot_id_file,
                                          const std::string& machine_id_file,
                                          absl::string_view instance_id,
                                          absl::string_view entropy) {
  Identity identity;
  identity.random_.reset(open("/dev/urandom", O_RDWR | O_CLOEXEC));
  if (!identity.random_) return ErrnoStatus("open /dev/urandom");
  RETURN_IF_ERROR(identity.Seed(entropy));
  ASSIGN_OR_RETURN(identity.boot_id_, MakeIdFile(boot_id_file));
  ASSIGN_OR_RETURN(identity.machine_id_, MakeIdFile(machine_id_file));
  ASSIGN_OR_RETURN(const std::string boot_id, ReadSmallFile("/proc/sys/kernel/random/boot_id"));
  RETURN_IF_ERROR(WriteId(identity.boot_id_, absl::StripAsciiWhitespace(boot_id)));
  RETURN_IF_ERROR(identity.WriteMachineId(instance_id));
  return identity;
}

absl::Status Identity::Seed(absl::string_view entropy) {
  // struct rand_pool_info with its flexible array (linux/random.h).
  struct {
    int32_t entropy_bits;
    int32_t size_bytes;
    std::array<char, kMaxEntropyBytes> bytes;
  } pool = {};
  if (entropy.size() > pool.bytes.size()) return absl::InvalidArgumentError("too much entropy");
  pool.entropy_bits = static_cast<int32_t>(entropy.size() * 8);
  pool.size_bytes = static_cast<int32_t>(entropy.size());
  std::memcpy(pool.bytes.data(), entropy.data(), entropy.size());
  if (ioctl(random_.get(), RNDADDENTROPY, &pool) != 0) return ErrnoStatus("RNDADDENTROPY");
  // Without it the new bytes would be used at the next interval, up to a minute from now.
  if (ioctl(random_.get(), RNDRESEEDCRNG) != 0) return ErrnoStatus("RNDRESEEDCRNG");
  return absl::OkStatus();
}

absl::StatusOr<std::string> Identity::Renew(absl::string_view instance_id) {
  ASSIGN_OR_RETURN(std::string boot_id, RandomUuid());
  RETURN_IF_ERROR(WriteId(boot_id_, boot_id));
  RETURN_IF_ERROR(WriteMachineId(instance_id));
  return boot_id;
}

absl::Status Identity::WriteMachineId(absl::string_view instance_id) {
  std::string machine_id = MachineIdOf(instance_id);
  if (machine_id.empty()) {
    ASSIGN_OR_RETURN(const std::string uuid, RandomUuid());
    machine_id = MachineIdOf(uuid);
  }
  return WriteId(machine_id_, machine_id);
}

absl::Status SetHostname(absl::string_view hostname) {
  if (hostname.empty() || sethostname(hostname.data(), hostname.size()) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(absl::StrCat("sethostname ", hostname));
}

absl::StatusOr<std::string> RandomUuid() {
  std::array<char, 16> bytes;
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return ErrnoStatus("getrandom");
  }
  bytes[6] = static_cast<char>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<char>((bytes[8] & 0x3f) | 0x80);
  const std::string digits = absl::BytesToHexString({bytes.data(), bytes.size()});
  const absl::string_view d = digits;
  return absl::StrCat(d.substr(0, 8), "-", d.substr(8, 4), "-", d.substr(12, 4), "-",
                      d.substr(16, 4), "-", d.substr(20));
}

std::string MachineIdOf(absl::string_view instance_id) {
  if (instance_id.size() != kUuidLength) return "";
  std::string id;
  for (size_t i = 0; i < instance_id.size(); ++i) {
    const char c = absl::ascii_tolower(static_cast<unsigned char>(instance_id[i]));
    if (IsDash(i) ? c != '-' : !absl::ascii_isxdigit(static_cast<unsigned char>(c))) return "";
    if (!IsDash(i)) id.push_back(c);
  }
  return id.size() == kMachineIdLength ? id : "";
}

}  // namespace hearth::agent
