// SPDX-License-Identifier: Apache-2.0
#include "agent/testing/guest_files.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace hearth::agent {
namespace {

// A variable that is set to nothing counts as not set.
const char* Variable(const char* name) {
  const char* const value = getenv(name);
  return value == nullptr || *value == '\0' ? nullptr : value;
}

std::string ImageStore() {
  if (const char* images = Variable("HEARTH_IMAGES")) return images;
  if (const char* cache = Variable("HEARTH_CACHE")) return absl::StrCat(cache, "/images");
  if (const char* cache = Variable("XDG_CACHE_HOME")) return absl::StrCat(cache, "/hearth/images");
  const char* home = Variable("HOME");
  return absl::StrCat(home == nullptr ? "" : home, "/.cache/hearth/images");
}

nlohmann::json Manifest() {
  std::ifstream file(absl::StrCat(ImageStore(), "/manifest.json"));
  return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
}

void Run(const std::string& command) {
  INFO(command);
  REQUIRE(system(command.c_str()) == 0);
}

}  // namespace

bool GuestFiles::Possible() {
  if (system("command -v mkfs.erofs strip >/dev/null") != 0) {
    WARN("SKIPPED: needs mkfs.erofs and strip");
    return false;
  }
  const nlohmann::json manifest = Manifest();
  if (!manifest.is_object() || !manifest.contains("kernel") || !manifest.contains("runtimes")) {
    WARN("SKIPPED: needs an image store in " << ImageStore() << " (guest-images/build)");
    return false;
  }
  return true;
}

GuestFiles::GuestFiles(const std::map<std::string, std::string>& code, const std::string& runtime) {
  char name[] = "/tmp/hearth-guest-XXXXXX";
  directory_ = mkdtemp(name);
  Run(absl::StrCat(
      "cd ", directory_, " && mkdir code && mkdir -p root/dev root/proc root/sys ",
      "root/run root/mnt root/runtime && strip -o root/hearth-agent ", HEARTH_AGENT,
      " && chmod 755 root/hearth-agent && mkfs.erofs --all-root agent.img root >/dev/null"));
  for (const auto& [file, text] : code) {
    const std::string path = absl::StrCat(directory_, "/code/", file);
    std::ofstream(path) << text;
    chmod(path.c_str(), 0755);
  }
  Run(absl::StrCat("cd ", directory_, " && mkfs.erofs --all-root code.img code >/dev/null"));
  const nlohmann::json manifest = Manifest();
  const std::string store = absl::StrCat(ImageStore(), "/");
  kernel_ = store + manifest["kernel"]["path"].get<std::string>();
  const std::string image =
      store + manifest["runtimes"][runtime]["image"]["path"].get<std::string>();
  disks_ = {
      {"agent", directory_ + "/agent.img"}, {"runtime", image}, {"code", directory_ + "/code.img"}};
}

GuestFiles::~GuestFiles() { Run(absl::StrCat("rm -r ", directory_)); }

agent::v1::Call GuestFiles::ConfigureCall(const agent::v1::ResourceLimits& limits) {
  agent::v1::Call call;
  agent::v1::ConfigureInstance* const configure = call.mutable_configure_instance();
  configure->set_instance_id("instance");
  configure->set_hostname("hearth-test");
  configure->set_wall_clock_unix_ns(time(nullptr) * int64_t{1'000'000'000});
  configure->set_entropy(std::string(64, 'e'));
  *configure->mutable_limits() = limits;
  const auto add = [&](agent::v1::Mount::Role role, const char* serial) {
    agent::v1::Mount* const mount = configure->add_mounts();
    mount->set_role(role);
    mount->set_disk_serial(serial);
    mount->set_filesystem("erofs");
  };
  add(agent::v1::Mount::ROLE_RUNTIME, "runtime");
  add(agent::v1::Mount::ROLE_CODE, "code");
  return call;
}

}  // namespace hearth::agent
