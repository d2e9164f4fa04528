// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/run_directory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "control-plane/backend/libvirt/qemu_process.h"

namespace hearth::libvirt {
namespace {

namespace fs = std::filesystem;

struct Folder {
  Folder() {
    char name[] = "/tmp/hearth-run-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path); }
  std::string path;
};

UniqueFd FileWith(const std::string& content) {
  UniqueFd fd(memfd_create("kernel", MFD_CLOEXEC));
  REQUIRE(write(fd.get(), content.data(), content.size()) == static_cast<ssize_t>(content.size()));
  return fd;
}

std::string Content(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST_CASE("run directory: a kernel is copied once, whoever brings it") {
  const Folder folder;
  const auto files = *RunDirectory::Open(folder.path, false);
  const UniqueFd one = FileWith("vmlinux"), same = FileWith("vmlinux"), other = FileWith("other");
  const std::string path = *files->Kernel(one.get());
  CHECK(Content(path) == "vmlinux");
  CHECK(*files->Kernel(one.get()) == path);
  CHECK(*files->Kernel(same.get()) == path);
  CHECK(Content(*files->Kernel(other.get())) == "other");
  const fs::directory_iterator kernels(folder.path + "/kernels");
  CHECK(std::distance(begin(kernels), end(kernels)) == 2);
}

TEST_CASE("run directory: what is no kernel's file is refused") {
  const Folder folder;
  const auto files = *RunDirectory::Open(folder.path, false);
  const UniqueFd empty = FileWith("");
  CHECK(absl::IsInvalidArgument(files->Kernel(empty.get()).status()));
  const UniqueFd null(open("/dev/null", O_RDONLY));
  CHECK(absl::IsInvalidArgument(files->Kernel(null.get()).status()));
}

TEST_CASE("run directory: one program uses it at a time, and removes what it made") {
  const Folder folder;
  {
    const auto files = *RunDirectory::Open(folder.path, false);
    const auto second = RunDirectory::Open(folder.path, false);
    REQUIRE(absl::IsAlreadyExists(second.status()));
    CHECK(absl::StrContains(second.status().message(), "--run-directory"));
    CHECK(files->EmbeddedFolder() == folder.path + "/embed");
    REQUIRE(files->PrepareEmbedded(files->EmbeddedFolder()).ok());
    std::ofstream(files->AgentSocket("hearth-x")) << "";
  }
  CHECK_FALSE(fs::exists(folder.path + "/machines"));
  CHECK(fs::exists(folder.path + "/embed/etc/qemu.conf"));
  // One that was killed leaves its sockets to the next.
  fs::create_directories(folder.path + "/machines");
  std::ofstream(folder.path + "/machines/hearth-x.agent") << "";
  const auto next = *RunDirectory::Open(folder.path, false);
  CHECK(fs::is_empty(folder.path + "/machines"));
}

TEST_CASE("run directory: its lock is one file, however often it is let go") {
  const Folder folder;
  (*RunDirectory::Open(folder.path, false)).reset();
  // Who has opened it before the next comes locks what that one holds.
  const UniqueFd early(open((folder.path + "/lock").c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(early);
  (*RunDirectory::Open(folder.path, false)).reset();
  const auto next = *RunDirectory::Open(folder.path, false);
  CHECK(flock(early.get(), LOCK_EX | LOCK_NB) != 0);
}

TEST_CASE("run directory: any root of the embedded driver is prepared, for one program at a time") {
  const Folder folder;
  const std::string root = folder.path + "/an operator's/root";
  const auto files = *RunDirectory::Open(folder.path + "/a", true);
  REQUIRE(files->PrepareEmbedded(root).ok());
  CHECK(absl::StrContains(Content(root + "/etc/qemu.conf"), "security_driver = \"none\""));
  const auto other = *RunDirectory::Open(folder.path + "/b", true);
  const absl::Status refused = other->PrepareEmbedded(root);
  CHECK(absl::IsAlreadyExists(refused));
  CHECK(absl::StrContains(refused.message(), root));
  CHECK(absl::IsInvalidArgument(other->PrepareEmbedded("")));
  CHECK(absl::IsInvalidArgument(other->PrepareEmbedded("root")));
}

TEST_CASE("run directory: an operator's root keeps its mode and its configuration") {
  const Folder folder;
  const std::string root = folder.path + "/root";
  fs::create_directories(root + "/etc");
  fs::permissions(root, fs::perms(0755));
  std::ofstream(root + "/etc/qemu.conf") << "user = \"operator\"\n";
  REQUIRE((*RunDirectory::Open(folder.path + "/run", true))->PrepareEmbedded(root).ok());
  CHECK(fs::status(root).permissions() == fs::perms(0755));
  CHECK(Content(root + "/etc/qemu.conf") == "user = \"operator\"\n");
}

TEST_CASE("run directory: a path too long for its sockets is refused") {
  const auto opened = RunDirectory::Open("/tmp/" + std::string(60, 'x'), false);
  CHECK(absl::IsInvalidArgument(opened.status()));
}

constexpr char kOurs[] = "hearth-01890a5d-ac96-774b-bcce-b302099a8057";

TEST_CASE("qemu: what the driver kept of our domains is removed, others' is not") {
  const Folder folder;
  for (const char* sub : {"/run/qemu", "/lib/qemu/domain-3-hearth-01890a5d-ac96",
                          "/lib/qemu/domain-4-b", "/lib/qemu/domain-5-hearth-db",
                          "/lib/qemu/domain-6-hearth-database-of-o", "/lib/qemu/qmp-0N2P3X"}) {
    fs::create_directories(folder.path + sub);
  }
  const std::string ours = folder.path + "/run/qemu/" + kOurs;
  for (const std::string& file :
       {ours + ".xml", ours + ".pid", folder.path + "/run/qemu/b.xml",
        folder.path + "/run/qemu/hearth-db.xml",
        folder.path + "/lib/qemu/domain-3-hearth-01890a5d-ac96/master-key.aes"}) {
    std::ofstream(file) << "";
  }
  CHECK(*RemoveOrphans(folder.path) == 0);
  CHECK_FALSE(fs::exists(ours + ".xml"));
  CHECK_FALSE(fs::exists(ours + ".pid"));
  CHECK_FALSE(fs::exists(folder.path + "/lib/qemu/domain-3-hearth-01890a5d-ac96"));
  CHECK_FALSE(fs::exists(folder.path + "/lib/qemu/qmp-0N2P3X"));
  CHECK(fs::exists(folder.path + "/run/qemu/b.xml"));
  CHECK(fs::exists(folder.path + "/run/qemu/hearth-db.xml"));
  CHECK(fs::exists(folder.path + "/lib/qemu/domain-4-b"));
  CHECK(fs::exists(folder.path + "/lib/qemu/domain-5-hearth-db"));
  CHECK(fs::exists(folder.path + "/lib/qemu/domain-6-hearth-database-of-o"));
}

TEST_CASE(
    "qemu: logs of ours that have ended are removed, others' and those of domains that run not") {
  const Folder folder;
  const std::string logs = folder.path + "/log/qemu/";
  const std::string running = "hearth-01890a5d-ac96-774b-bcce-000000000000";
  fs::create_directories(logs);
  for (const std::string& file : {kOurs + std::string(".log"), kOurs + std::string(".log.0"),
                                  running + ".log", std::string("hearth-db.log")}) {
    std::ofstream(logs + file) << "";
  }
  RemoveLogs("qemu:///embed?root=" + folder.path, {running, "hearth-db"});
  CHECK_FALSE(fs::exists(logs + kOurs + ".log"));
  CHECK_FALSE(fs::exists(logs + kOurs + ".log.0"));
  CHECK(fs::exists(logs + running + ".log"));
  RemoveLogs("qemu:///embed?root=" + folder.path, {});
  CHECK_FALSE(fs::exists(logs + running + ".log"));
  CHECK(fs::exists(logs + "hearth-db.log"));
}

}  // namespace
}  // namespace hearth::libvirt
