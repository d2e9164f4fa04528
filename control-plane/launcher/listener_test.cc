// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/listener.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

namespace hearth::launcher {
namespace {

// To whom a test may give a file: whoever is not root, only to itself.
const uint32_t kUid = geteuid() == 0 ? 4711 : geteuid();

struct Folder {
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "hearth-listener.XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name + "/";
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string path;
};

uint32_t OwnerOf(const std::string& path) {
  struct stat info {};
  REQUIRE(lstat(path.c_str(), &info) == 0);
  return info.st_uid;
}

TEST_CASE("listener: its socket belongs to the user it is made for, and only that one may use it") {
  Folder folder;
  const std::string path = folder.path + "launcher.sock";
  REQUIRE(ListenFor(path, kUid).ok());
  CHECK(OwnerOf(path) == kUid);
  CHECK((std::filesystem::status(path).permissions() & std::filesystem::perms::all) ==
        (std::filesystem::perms::owner_all));
}

TEST_CASE("listener: what its folder's owner put in the socket's place is not given away") {
  Folder folder;
  const std::string path = folder.path + "launcher.sock";
  const std::string victim = folder.path + "victim";
  REQUIRE(ListenFor(victim, geteuid()).ok());
  SECTION("a symbolic link to a socket") { std::filesystem::create_symlink(victim, path); }
  SECTION("a hard link to a socket") { std::filesystem::create_hard_link(victim, path); }
  SECTION("another kind of file") {
    REQUIRE(UniqueFd(open(path.c_str(), O_CREAT | O_WRONLY, 0600)));
  }
  CHECK(GiveSocket(path, kUid).code() == absl::StatusCode::kFailedPrecondition);
  CHECK(OwnerOf(victim) == geteuid());
  CHECK(OwnerOf(path) == geteuid());
}

}  // namespace
}  // namespace hearth::launcher
