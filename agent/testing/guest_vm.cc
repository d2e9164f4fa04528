// SPDX-License-Identifier: Apache-2.0
#include "agent/testing/guest_vm.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace hearth::agent {
namespace {

std::string ImageStore() {
  if (const char* images = getenv("HEARTH_IMAGES")) return images;
  if (const char* cache = getenv("HEARTH_CACHE")) return absl::StrCat(cache, "/images");
  if (const char* cache = getenv("XDG_CACHE_HOME")) return absl::StrCat(cache, "/hearth/images");
  const char* home = getenv("HOME");
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

UniqueFd Listen(const std::string& path) {
  UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  REQUIRE(path.size() < sizeof(address.sun_path));
  path.copy(address.sun_path, path.size());
  REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(listen(listener.get(), 1) == 0);
  return listener;
}

}  // namespace

bool GuestVm::Possible() {
  if (system("command -v qemu-system-x86_64 mkfs.erofs strip >/dev/null") != 0) {
    WARN("SKIPPED: needs qemu-system-x86_64, mkfs.erofs and strip");
    return false;
  }
  const nlohmann::json manifest = Manifest();
  if (!manifest.is_object() || !manifest.contains("kernel") || !manifest.contains("runtimes")) {
    WARN("SKIPPED: needs an image store in " << ImageStore() << " (guest-images/build)");
    return false;
  }
  return true;
}

GuestVm::GuestVm(const std::map<std::string, std::string>& code, const std::string& runtime,
                 int memory_mib) {
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
  const std::string kernel = store + manifest["kernel"]["path"].get<std::string>();
  const std::string image =
      store + manifest["runtimes"][runtime]["image"]["path"].get<std::string>();

  std::vector<std::string> arguments = {
      "qemu-system-x86_64",
      "-M",
      "microvm,acpi=off,isa-serial=on",
      "-accel",
      "tcg",
      "-cpu",
      "max",
      "-m",
      std::to_string(memory_mib),
      "-nodefaults",
      "-no-user-config",
      "-display",
      "none",
      "-no-reboot",
      "-kernel",
      kernel,
      "-append",
      "console=ttyS0 quiet reboot=t panic=-1 root=/dev/vda ro init=/hearth-agent "
      "hearth.transport=virtio-serial",
      "-serial",
      absl::StrCat("file:", directory_, "/console"),
      "-device",
      "virtio-rng-device",
      "-chardev",
      absl::StrCat("socket,id=agent,path=", directory_, "/agent.sock"),
      "-device",
      "virtio-serial-device",
      "-device",
      "virtserialport,chardev=agent,name=agent"};
  const std::vector<std::pair<std::string, std::string>> disks = {
      {"agent", directory_ + "/agent.img"}, {"runtime", image}, {"code", directory_ + "/code.img"}};
  for (const auto& [serial, file] : disks) {
    arguments.insert(
        arguments.end(),
        {"-drive", absl::StrCat("id=", serial, ",file=", file, ",format=raw,if=none,readonly=on"),
         "-device", absl::StrCat("virtio-blk-device,drive=", serial, ",serial=", serial)});
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  const UniqueFd listener = Listen(directory_ + "/agent.sock");
  pid_ = fork();
  REQUIRE(pid_ >= 0);
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  pollfd ready = {listener.get(), POLLIN, 0};
  REQUIRE(poll(&ready, 1, 30'000) == 1);
  UniqueFd connection(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  REQUIRE(connection);
  host_ = std::make_unique<TestHost>(std::move(connection));
}

GuestVm::~GuestVm() {
  host_.reset();
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Run(absl::StrCat("rm -r ", directory_));
}

void GuestVm::Configure(const agent::v1::ResourceLimits& limits) {
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
  const agent::v1::Reply reply = host_->Call(call);
  INFO(reply.error().message());
  REQUIRE_FALSE(reply.has_error());
}

void GuestVm::WaitForReset() {
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  REQUIRE(WIFEXITED(status));
  REQUIRE(WEXITSTATUS(status) == 0);
}

std::string GuestVm::Console() const {
  std::ifstream file(directory_ + "/console");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace hearth::agent
