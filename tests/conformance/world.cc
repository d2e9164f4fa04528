// SPDX-License-Identifier: Apache-2.0
#include "tests/conformance/world.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "control-plane/backend/kvm/kvm_backend.h"

namespace hearth::conformance {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kLookAgain = absl::Milliseconds(10);

std::unique_ptr<World>& Slot() {
  static std::unique_ptr<World> world;
  return world;
}

std::string Variable(const char* name) {
  const char* const value = getenv(name);
  INFO("tests/conformance/run sets " << name);
  REQUIRE(value != nullptr);
  return value;
}

int Number(const char* name) {
  int number = 0;
  REQUIRE(absl::SimpleAtoi(Variable(name), &number));
  return number;
}

// What can be read: the process behind a file of /proc may be gone by then.
std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

struct Child {
  pid_t pid = -1;
  bool ended = false;
};

std::vector<Child> ChildrenOf(pid_t pid) {
  std::vector<Child> children;
  std::error_code error;
  for (const auto& task : fs::directory_iterator(absl::StrCat("/proc/", pid, "/task"), error)) {
    const std::string list = ReadFile(task.path().string() + "/children");
    for (const absl::string_view number : absl::StrSplit(list, ' ', absl::SkipEmpty())) {
      Child child;
      REQUIRE(absl::SimpleAtoi(number, &child.pid));
      const std::string status = ReadFile(absl::StrCat("/proc/", child.pid, "/status"));
      child.ended = status.empty() || absl::StrContains(status, "State:\tZ");
      children.push_back(child);
    }
  }
  return children;
}

size_t CountOf(const std::string& folder) {
  std::error_code error;
  const auto entries = fs::directory_iterator(folder, error);
  REQUIRE_FALSE(error);
  return static_cast<size_t>(std::distance(begin(entries), end(entries)));
}

// A disk with one file, made once for all guests.
std::string MakeCodeDisk(const std::string& folder) {
  REQUIRE(fs::create_directory(folder + "/code"));
  std::string data(kDataBytes, '\0');
  std::minstd_rand random;
  for (char& byte : data) byte = static_cast<char>(random() >> 8);
  std::ofstream(folder + "/code/data") << data;
  std::string disk = folder + "/code.img";
  const std::string command =
      absl::StrCat("mkfs.erofs -T0 --all-root ", disk, " ", folder, "/code >/dev/null 2>&1");
  INFO(command);
  REQUIRE(system(command.c_str()) == 0);
  return disk;
}

}  // namespace

World& World::Get() {
  if (!Slot()) Slot().reset(new World());
  return *Slot();
}

void World::End() { Slot().reset(); }

World::World() {
  server_ = Number("HEARTH_CONFORMANCE_PID");
  rounds_ = Number("HEARTH_CONFORMANCE_ROUNDS");
  const std::string store = Variable("HEARTH_CONFORMANCE_IMAGES") + "/";
  control::KvmBackendConfig config;
  config.launcher_socket = Variable("HEARTH_CONFORMANCE_SOCKET");
  config.build = "conformance";
  config.answer_timeout = kPatience;
  const char* const daemon = getenv("HEARTH_CONFORMANCE_DAEMON");
  if (daemon != nullptr) daemon_folder_ = daemon;
  const std::string name = Variable("HEARTH_CONFORMANCE_BACKEND");
  if (name == "libvirt") config.capabilities = control::LibvirtCapabilities();
  REQUIRE(config.capabilities.name == name);

  const nlohmann::json manifest = nlohmann::json::parse(ReadFile(store + "manifest.json"));
  const auto file = [&](const nlohmann::json& image) {
    return store + image["path"].get<std::string>();
  };
  char made[] = "/tmp/hearth-conformance-XXXXXX";
  REQUIRE(mkdtemp(made) != nullptr);
  folder_ = made;
  kernel_ = file(manifest["kernel"]);
  disks_ = {{file(manifest["agent"]), true, "agent"},
            {file(manifest["runtimes"]["base"]["image"]), true, "runtime"},
            {MakeCodeDisk(folder_), true, "code"}};
  auto backend = control::KvmBackend::Create(std::move(config));
  INFO(backend.status());
  REQUIRE(backend.ok());
  backend_ = *std::move(backend);
  ListAlive();  // It knows what its host can do once it has reached it.
}

World::~World() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

std::string World::NewId() {
  return absl::StrFormat("019371a0-0000-7000-8000-%012x", uint64_t{0x10000} * getpid() + ++ids_);
}

control::MachineSpec World::Spec() {
  control::MachineSpec spec;
  spec.id = NewId();
  spec.memory_mib = kMemoryMib;
  spec.kernel_path = kernel_;
  // As hearthd's (control-plane/node/instance_boot.cc).
  spec.command_line =
      "root=/dev/vda ro rootfstype=erofs init=/hearth-agent console=ttyS0 quiet loglevel=4 "
      "reboot=t panic=-1 random.trust_cpu=on tsc=reliable no_timer_check i8042.noaux i8042.nokbd";
  spec.disks = disks_;
  return spec;
}

std::vector<std::string> World::ListAlive() {
  absl::StatusOr<std::vector<std::string>> alive = backend_->ListAlive();
  INFO(alive.status());
  REQUIRE(alive.ok());
  std::sort(alive->begin(), alive->end());
  return *std::move(alive);
}

std::vector<pid_t> World::Machines() const {
  std::vector<pid_t> machines;
  if (through_daemon()) {
    std::error_code error;
    for (const auto& process : fs::directory_iterator("/proc", error)) {
      pid_t pid = -1;
      if (!absl::SimpleAtoi(process.path().filename().string(), &pid)) continue;
      if (absl::StrContains(ReadFile(process.path().string() + "/cmdline"), daemon_folder_)) {
        machines.push_back(pid);
      }
    }
    return machines;
  }
  for (const Child& child : ChildrenOf(server_)) {
    if (!child.ended) machines.push_back(child.pid);
  }
  return machines;
}

void World::RequireNoMachine() {
  CHECK(ListAlive().empty());
  Await("no process of a machine", [this] { return Machines().empty(); });
}

Footprint FootprintOf(pid_t pid) {
  const std::string process = absl::StrCat("/proc/", pid);
  Footprint footprint;
  uint64_t pages = 0, resident = 0;
  std::ifstream(process + "/statm") >> pages >> resident;
  REQUIRE(resident > 0);
  footprint.resident_bytes = resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  footprint.descriptors = CountOf(process + "/fd");
  footprint.threads = CountOf(process + "/task");
  for (const Child& child : ChildrenOf(pid)) footprint.zombies += child.ended ? 1 : 0;
  return footprint;
}

void Await(const std::string& what, const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + kPatience;
  while (!condition()) {
    INFO(what << " did not come about within " << absl::FormatDuration(kPatience));
    REQUIRE(absl::Now() < deadline);
    absl::SleepFor(kLookAgain);
  }
}

}  // namespace hearth::conformance
