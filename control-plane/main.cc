// SPDX-License-Identifier: Apache-2.0
// hearthd: reads its flags, wires the API half and the node half together, serves until told to
// stop. Runs without root; what needs root is hearth-launcher's.
#include <signal.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iostream>

#include "control-plane/api/server.h"
#include "control-plane/api/state.h"
#include "control-plane/backend/kvm/kvm_backend.h"
#include "control-plane/log_lines.h"
#include "control-plane/node/local_node.h"
#include "control-plane/snapshots/host.h"
#include "vmm/base/host_memory.h"
#include "vmm/base/open_files.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

#ifndef HEARTH_VERSION
#error "the build says which version this is"
#endif

namespace hearth::control {
namespace {

constexpr char kDescription[] =
    "hearthd runs functions, each instance in a microVM of its own, and answers the hearth.v1 API "
    "on a Unix socket.\n\n"
    "It needs no root. Start hearth-launcher (which does) first, and give both the same "
    "--launcher-socket; build the images with guest-images/build.";

constexpr char kFooter[] =
    "\nExample:\n"
    "  hearth-launcher --listen=/run/hearth/launcher.sock --vmm=/usr/lib/hearth/hearth-vmm "
    "--allow-uid=UID &\n"
    "  hearthd --socket /run/hearth/hearthd.sock --state-dir /var/lib/hearth "
    "--images /var/lib/hearth-images\n"
    "  hearth --socket /run/hearth/hearthd.sock deploy ./my-function\n\n"
    "Whoever may open the socket may do everything: keep its directory private. SIGHUP has it "
    "read the image store again. SIGTERM ends hearthd in order: calls under way get --grace "
    "seconds. Only one hearthd can use a state directory at a time. At its first start it makes "
    "the tenant \"default\".";

struct Options {
  std::string socket = "/run/hearth/hearthd.sock";
  std::string state_dir = "/var/lib/hearth";
  std::string images = "/var/lib/hearth/images";
  std::string launcher_socket = "/run/hearth/launcher.sock";
  std::string backend = "kvm";
  uint64_t memory_mib = 0;
  double overcommit = 1;
  double idle_pause = 0.5;
  double idle_stop = 300;
  size_t queue_length = 512;
  double queue_wait = 30;
  double boot_timeout = 30;
  std::string snapshots = "on";
  std::string snapshot_directory;
  uint64_t resident_snapshot_mib = 0;
  double snapshot_idle_hours = 14 * 24;
  int waiting_vmms = -1;
  size_t instances_ahead = 1;
  double grace = 10;
  std::string log_level = "info";
};

void AddFlags(CLI::App* app, Options* options) {
  app->footer(kFooter);
  app->set_version_flag("--version", std::string("hearthd ") + HEARTH_VERSION);
  app->add_option("--socket", options->socket, "Unix socket to serve the API on")
      ->capture_default_str();
  app->add_option("--state-dir", options->state_dir,
                  "Folder for databases, artifacts and code disks; made when absent")
      ->capture_default_str();
  app->add_option("--images", options->images,
                  "Image store: the folder with manifest.json that guest-images/build made")
      ->capture_default_str();
  app->add_option("--launcher-socket", options->launcher_socket,
                  "Unix socket on which hearth-launcher listens, or hearth-libvirt")
      ->capture_default_str();
  app->add_option("--backend", options->backend,
                  "kvm: machines of hearth-vmm, by hearth-launcher; libvirt: machines of QEMU, by "
                  "hearth-libvirt, whose snapshots serve one instance at a time")
      ->check(CLI::IsMember({"kvm", "libvirt"}))
      ->capture_default_str();
  app->add_option("--memory-mib", options->memory_mib,
                  "Host memory for all instances together, in MiB; 0: nine tenths of what is free")
      ->capture_default_str();
  app->add_option("--overcommit", options->overcommit,
                  "How many times the host's memory guests may be promised together. Instances of "
                  "one snapshot share what they do not write; should all need what they were "
                  "promised, the kernel ends some")
      ->check(CLI::Range(1.0, 64.0))
      ->capture_default_str();
  app->add_option("--idle-pause", options->idle_pause,
                  "Seconds after which an idle instance's processors are stopped")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app->add_option("--idle-stop", options->idle_stop,
                  "Seconds after which an idle instance is ended and its memory freed")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app->add_option(
         "--queue-length", options->queue_length,
         "Invocations that may wait for an instance; more are refused at once. At most 256 "
         "run and wait together, so a larger number bounds nothing")
      ->capture_default_str();
  app->add_option("--queue-wait", options->queue_wait,
                  "Seconds that an invocation may wait for an instance")
      ->check(CLI::Range(0.0, 900.0))
      ->capture_default_str();
  app->add_option("--boot-timeout", options->boot_timeout,
                  "Seconds that an instance may take to boot; more where KVM is emulated")
      ->check(CLI::Range(1.0, 900.0))
      ->capture_default_str();
  app->add_option("--snapshots", options->snapshots,
                  "on: versions are initialised once, and instances restored from a snapshot of "
                  "that; off: every instance boots")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app->add_option("--snapshot-directory", options->snapshot_directory,
                  "Folder for snapshots; made when absent (snapshots in --state-dir)");
  app->add_option("--resident-snapshot-mib", options->resident_snapshot_mib,
                  "Host memory, in MiB, for snapshots that nobody uses now, so that the next "
                  "restore need not read them; 0: an eighth of what is free. Beside --memory-mib")
      ->capture_default_str();
  app->add_option("--snapshot-idle-hours", options->snapshot_idle_hours,
                  "Hours after which a snapshot that nobody used is deleted; 0: never")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--waiting-vmms", options->waiting_vmms,
                  "VMM processes to keep spawned ahead of demand, at most 256; -1: as the last "
                  "minute's demand says, up to 8")
      ->check(CLI::Range(-1, 256))
      ->capture_default_str();
  app->add_option("--instances-ahead", options->instances_ahead,
                  "With --backend=libvirt: how many instances of a version that has several busy "
                  "ones are kept idle beside them, booted ahead of demand while there is memory")
      ->check(CLI::Range(0, 64))
      ->capture_default_str();
  app->add_option("--grace", options->grace,
                  "Seconds that calls under way get to end when hearthd is told to stop")
      ->check(CLI::Range(0.0, 900.0))
      ->capture_default_str();
  app->add_option("--log-level", options->log_level, "debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
}

absl::Status CheckMemory(uint64_t memory_mib, double overcommit) {
  const uint64_t host_mib = ReadHostMemory().total >> 20;
  if (static_cast<double>(memory_mib) <= static_cast<double>(host_mib) * overcommit) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("--memory-mib: ", memory_mib, " is more than the ",
                                                 host_mib, " that may be used here, times the ",
                                                 overcommit, " of --overcommit"));
}

absl::Status CheckLauncher(const std::string& path, const std::string& backend) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--launcher-socket: '", path, "' is empty or too long for a socket's path"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return ErrnoStatus("socket");
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
    return absl::OkStatus();
  }
  return ErrnoStatus(absl::StrCat("no ", backend == "kvm" ? "hearth-launcher" : "hearth-libvirt",
                                  " answers on ", path,
                                  "; start it first (as root), or name its socket with "
                                  "--launcher-socket"));
}

absl::Status AddSnapshots(const Options& options, const State& state, LocalNodeConfig* node) {
  // A machine of one backend is no other's.
  ASSIGN_OR_RETURN(
      node->host, HostDescription(options.backend == "kvm" ? HEARTH_VERSION
                                                           : options.backend + " " HEARTH_VERSION));
  SnapshotStoreConfig store;
  store.directory = options.snapshot_directory.empty()
                        ? absl::StrCat(options.state_dir, "/snapshots")
                        : options.snapshot_directory;
  store.directory = std::filesystem::absolute(store.directory).string();
  store.resident_budget_bytes = options.resident_snapshot_mib != 0
                                    ? options.resident_snapshot_mib << 20
                                    : ReadHostMemory().available / 8;
  node->set_aside_mib = store.resident_budget_bytes >> 20;
  ASSIGN_OR_RETURN(node->snapshots, SnapshotStore::Open(std::move(store)));
  node->images = state.kept_images.get();
  if (options.snapshot_idle_hours > 0) {
    node->snapshot_idle = absl::Hours(options.snapshot_idle_hours);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LocalNode>> MakeNode(const Options& options, const State& state) {
  KvmBackendConfig backend;
  backend.launcher_socket = options.launcher_socket;
  backend.build = HEARTH_VERSION;
  // A VMM's answer to CreateMachine is part of a boot: where that may take long, so may this.
  backend.answer_timeout = std::max(backend.answer_timeout, absl::Seconds(options.boot_timeout));
  if (options.backend == "libvirt") backend.capabilities = LibvirtCapabilities();
  LocalNodeConfig node;
  ASSIGN_OR_RETURN(node.backend, KvmBackend::Create(std::move(backend)));
  node.kernel = state.images->kernel();
  node.agent = state.images->agent();
  node.build = HEARTH_VERSION;
  node.memory_capacity_mib = options.memory_mib;
  node.overcommit = options.overcommit;
  node.max_instances = InstancesWithin(RaiseOpenFileLimit());
  node.idle_pause = absl::Seconds(options.idle_pause);
  node.idle_stop = absl::Seconds(options.idle_stop);
  node.queue_limit = options.queue_length;
  node.queue_wait = absl::Seconds(options.queue_wait);
  node.boot_timeout = absl::Seconds(options.boot_timeout);
  if (options.waiting_vmms >= 0) node.waiting_vmms = static_cast<size_t>(options.waiting_vmms);
  node.instances_ahead = options.instances_ahead;
  if (options.snapshots == "on") RETURN_IF_ERROR(AddSnapshots(options, state, &node));
  return LocalNode::Create(std::move(node));
}

absl::Status Serve(const Options& options) {
  // Blocked in every thread from the start, so that only the wait below gets them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  umask(0077);  // The socket's and the state's only guard.

  RETURN_IF_ERROR(CheckMemory(options.memory_mib, options.overcommit));
  RETURN_IF_ERROR(CheckLauncher(options.launcher_socket, options.backend));
  ASSIGN_OR_RETURN(const std::unique_ptr<State> state,
                   State::Open(options.state_dir, options.images));
  ASSIGN_OR_RETURN(const std::unique_ptr<LocalNode> node, MakeNode(options, *state));
  ASSIGN_OR_RETURN(const std::unique_ptr<ApiServer> server,
                   ApiServer::Start(options.socket, state.get(), node.get()));
  spdlog::info("hearthd {} is ready: it serves {} with {} MiB for instances, {} at most",
               HEARTH_VERSION, options.socket, node->memory_capacity_mib(), node->max_instances());
  int received = 0;
  while (sigwait(&signals, &received) == 0 && received == SIGHUP) {
    const absl::Status reloaded = server->ReloadImages();
    if (!reloaded.ok()) {
      spdlog::error("the images cannot be reloaded: {}", std::string(reloaded.message()));
    }
  }
  spdlog::info("{}: stopping, calls under way have {} s", strsignal(received), options.grace);
  server->Stop(absl::Seconds(options.grace));
  unlink(options.socket.c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace hearth::control

// To clang-tidy an empty std::function could be called. NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  hearth::control::Options options;
  CLI::App app(hearth::control::kDescription, "hearthd");
  hearth::control::AddFlags(&app, &options);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("hearthd"));
  spdlog::set_formatter(hearth::control::MakeLogFormatter());
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  const absl::Status status = hearth::control::Serve(options);
  if (status.ok()) {
    spdlog::info("hearthd ended");
    return 0;
  }
  std::cerr << "hearthd: " << status.message() << "\n";
  return 1;
}
