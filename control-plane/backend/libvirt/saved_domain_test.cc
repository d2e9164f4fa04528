// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/saved_domain.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/limits.h"
#include "wire/limits.h"

namespace hearth::libvirt {
namespace {

constexpr char kUuid[] = "0192f4a0-0000-7abc-8def-0123456789ab";
constexpr uint64_t kMemoryBytes = uint64_t{kMinGuestMemoryMib} << 20;

UniqueFd MemoryFile(uint64_t bytes = 0) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  REQUIRE(file);
  REQUIRE(ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
  return file;
}

std::vector<UniqueFd> OneDisk(uint64_t bytes = 4096) {
  std::vector<UniqueFd> disks;
  disks.push_back(MemoryFile(bytes));
  return disks;
}

DomainSpec Spec() {
  DomainSpec spec;
  spec.uuid = kUuid;
  spec.memory_mib = kMinGuestMemoryMib;
  spec.disks = {{"agent", true}};
  spec.console_socket = "/c";
  return spec;
}

struct Files {
  Files() {
    std::string pattern = (std::filesystem::temp_directory_path() / "saved-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    folder = pattern;
  }
  ~Files() { std::filesystem::remove_all(folder); }
  std::string Image(uint64_t bytes) const {
    std::string text(bytes, '\0');
    for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 131 % 251);
    std::ofstream(folder + "/image") << text;
    return text;
  }
  std::string folder;
  UniqueFd state = MemoryFile();
  UniqueFd memory = MemoryFile();
};

v1::SavedDomain Saved() {
  const auto saved = Describe(Spec(), OneDisk(), "libvirt 1, QEMU 2");
  REQUIRE(saved.ok());
  return *saved;
}

std::string Read(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_CASE("saved: an image goes into the two files and comes out of them, with a tail or without") {
  for (const uint64_t bytes : {uint64_t{1}, kMemoryBytes - 1, kMemoryBytes, kMemoryBytes + 1,
                               kMemoryBytes + kMaxImageTailBytes}) {
    const Files files;
    const std::string image = files.Image(bytes);
    REQUIRE(
        WriteSaved(Saved(), files.folder + "/image", files.state.get(), files.memory.get()).ok());
    struct stat info {};
    REQUIRE(fstat(files.memory.get(), &info) == 0);
    REQUIRE(static_cast<uint64_t>(info.st_size) == kMemoryBytes);
    const auto saved = ReadSaved(files.state.get());
    REQUIRE(saved.ok());
    REQUIRE(saved->image_bytes() == bytes);
    REQUIRE(WriteImage(*saved, files.memory.get(), files.folder + "/restored").ok());
    REQUIRE(Read(files.folder + "/restored") == image);
  }
}

TEST_CASE("saved: an image that is too large is refused with both sizes") {
  const Files files;
  files.Image(kMemoryBytes + kMaxImageTailBytes + 1);
  const absl::Status status =
      WriteSaved(Saved(), files.folder + "/image", files.state.get(), files.memory.get());
  REQUIRE(absl::IsResourceExhausted(status));
  REQUIRE(absl::StrContains(status.message(), absl::StrCat(kMemoryBytes + kMaxImageTailBytes + 1)));
}

TEST_CASE("saved: what is no state, or an impossible one, is refused") {
  const auto read = [](const std::string& bytes) {
    const UniqueFd file = MemoryFile();
    REQUIRE(write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    return ReadSaved(file.get()).status();
  };
  const auto changed = [&](auto&& change) {
    v1::SavedDomain saved = Saved();
    saved.set_image_bytes(100);
    change(&saved);
    return read(saved.SerializeAsString());
  };
  CHECK(changed([](v1::SavedDomain*) {}).ok());
  CHECK(absl::IsInvalidArgument(read("")));
  CHECK(absl::IsInvalidArgument(read("\xff\xff\xff")));
  CHECK(absl::IsInvalidArgument(read(std::string(wire::kMaxSavedStateBytes + 1, 'x'))));
  CHECK(absl::IsInvalidArgument(changed([](auto* saved) { saved->set_image_bytes(0); })));
  CHECK(absl::IsInvalidArgument(changed([](auto* saved) { saved->set_image_tail("x"); })));
  CHECK(absl::IsInvalidArgument(changed([](auto* saved) {
    saved->set_image_bytes(kMemoryBytes + 1);  // And no tail.
  })));
  CHECK(absl::IsInvalidArgument(changed([](auto* saved) { saved->set_uuid("../../etc/passwd"); })));
  CHECK(absl::IsInvalidArgument(
      changed([](auto* saved) { saved->set_memory_mib(kMinGuestMemoryMib - 1); })));
  CHECK(absl::IsInvalidArgument(
      changed([](auto* saved) { saved->set_memory_mib(kMaxGuestMemoryMib + 1); })));
  const absl::Status later =
      changed([](auto* saved) { saved->set_format_version(kSavedDomainVersion + 1); });
  CHECK(absl::IsFailedPrecondition(later));
  CHECK(absl::StrContains(later.message(), "later hearth-libvirt"));
}

TEST_CASE("saved: everything that does not fit is named") {
  const auto check = [](const std::string& hypervisor, bool kvm, std::vector<DiskSpec> specs,
                        uint64_t bytes, bool console = true) {
    return CheckSaved(Saved(), hypervisor, kvm, /*vsock=*/false, specs, OneDisk(bytes), console);
  };
  const char* const same = "libvirt 1, QEMU 2";
  CHECK(check(same, false, {{"agent", true}}, 4096).ok());
  CHECK(absl::StrContains(check(same, true, {{"agent", true}}, 4096).message(), "emulated"));
  CHECK(absl::StrContains(check(same, false, {{"agent", false}}, 4096).message(), "disk 0"));
  CHECK(absl::StrContains(check(same, false, {{"other", true}}, 4096).message(), "'other'"));
  CHECK(absl::StrContains(check(same, false, {}, 4096).message(), "1 disks, not 0"));
  CHECK(absl::StrContains(check(same, false, {{"agent", true}}, 4096, false).message(), "console"));
  const absl::Status several = check("libvirt 1, QEMU 3", false, {{"agent", true}}, 8192);
  CHECK(absl::IsFailedPrecondition(several));
  CHECK(absl::StrContains(several.message(), "QEMU 3"));
  CHECK(absl::StrContains(several.message(), "4096"));
  v1::SavedDomain over_vsock = Saved();
  over_vsock.set_vsock(true);
  const auto restore = [&](const v1::SavedDomain& saved, bool vsock) {
    return CheckSaved(saved, same, false, vsock, {{"agent", true}}, OneDisk(4096), true);
  };
  CHECK(restore(over_vsock, true).ok());
  CHECK(absl::StrContains(restore(over_vsock, false).message(), "vsock"));
  CHECK(restore(Saved(), true).ok());  // A port is there always.
}

TEST_CASE("saved: a memory file of another size is refused, and no file is left where one is") {
  const Files files;
  files.Image(100);
  v1::SavedDomain saved = Saved();
  saved.set_image_bytes(100);
  const UniqueFd shorter = MemoryFile(kMemoryBytes - 1);
  CHECK(absl::IsInvalidArgument(WriteImage(saved, shorter.get(), files.folder + "/restored")));
  const UniqueFd right = MemoryFile(kMemoryBytes);
  CHECK_FALSE(WriteImage(saved, right.get(), files.folder + "/image").ok());
  CHECK(Read(files.folder + "/image").size() == 100);
}

}  // namespace
}  // namespace hearth::libvirt
