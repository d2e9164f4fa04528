// SPDX-License-Identifier: Apache-2.0
// hearth-libvirt: takes hearth-launcher's place on hosts where QEMU runs the machines, by libvirt.
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "control-plane/backend/libvirt/cpu_commands.h"
#include "control-plane/backend/libvirt/embedded_uri.h"
#include "control-plane/backend/libvirt/server.h"
#include "control-plane/backend/libvirt/tsc_rate.h"
#include "control-plane/backend/libvirt/vsock_listener.h"
#include "control-plane/launcher/listener.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

constexpr char kVersion[] = "hearth-libvirt " HEARTH_VERSION;
constexpr char kDescription[] =
    "hearth-libvirt runs Hearth's machines on QEMU, driven by libvirt. It takes hearth-launcher's "
    "place where there is no usable KVM (QEMU then emulates the processor) or where libvirt runs "
    "the hosts anyway.";
constexpr char kFooter[] =
    "\nExample:\n"
    "  hearth-libvirt --listen=/run/hearth/libvirt.sock --allow-uid=UID &\n"
    "  hearthd --backend=libvirt --launcher-socket=/run/hearth/libvirt.sock ...\n\n"
    "Without --uri libvirt's QEMU driver runs inside this program, with its root in "
    "--run-directory, and no daemon is needed: only root, and the packages "
    "libvirt-daemon-driver-qemu and qemu-system-x86 with the user and group libvirt-qemu. A "
    "daemon that --uri names may start later, and may be started anew: until it answers, each "
    "machine is refused with the reason.\n"
    "Every machine is a domain named hearth-INSTANCE. All of them end with this program; what one "
    "that was killed has left is removed at the next start. SIGTERM ends it in order.";

struct Options {
  std::string uri;
  std::string listen;
  uint32_t allow_uid = 0;
  std::string run_directory = "/run/hearth/libvirt";
  std::string accel = "auto";
  std::string transport = "auto";
};

void Log(const std::string& line) { std::cerr << "hearth-libvirt: " << line << std::endl; }

void AddFlags(CLI::App* app, Options* options) {
  app->footer(kFooter);
  app->set_version_flag("--version", kVersion);
  app->add_option("--listen", options->listen, "Unix socket to make, for --allow-uid alone");
  app->add_option("--allow-uid", options->allow_uid,
                  "hearthd's user; root and this program's own are always allowed");
  app->callback([app] {
    for (const char* flag : {"--listen", "--allow-uid"}) {
      // A command needs neither.
      if (app->get_subcommands().empty() && app->count(flag) == 0) throw CLI::RequiredError(flag);
    }
  });
  app->add_option("--uri", options->uri,
                  "libvirt's, such as qemu:///system, qemu:///session or qemu:///embed?root=FOLDER "
                  "(qemu:///embed?root=embed in --run-directory)");
  app->add_option("--run-directory", options->run_directory,
                  "Folder for sockets, kernels and the embedded driver; made when absent")
      ->capture_default_str();
  app->add_option("--accel", options->accel,
                  "kvm; tcg: QEMU emulates the processor, many times slower; auto: kvm where "
                  "the processor can virtualise and /dev/kvm opens")
      ->check(CLI::IsMember({"auto", "kvm", "tcg"}))
      ->capture_default_str();
  app->add_option("--transport", options->transport,
                  "How agents are reached. vsock: by this host's vhost-vsock, at its port 1024, "
                  "which only one program can have; virtio-serial: a port of each machine; auto: "
                  "vsock where that can be")
      ->check(CLI::IsMember({"auto", "vsock", "virtio-serial"}))
      ->capture_default_str();
}

// Why KVM cannot run an ordinary guest here; empty: it can. A /dev/kvm without VT-x or SVM is of a
// hypervisor's own kind that boots none.
std::string WhyNoKvm() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  bool virtualises = false;
  for (std::string line; !virtualises && std::getline(cpuinfo, line);) {
    if (!absl::StartsWith(line, "flags")) continue;
    for (const absl::string_view flag : absl::StrSplit(line, ' ')) {
      virtualises = virtualises || flag == "vmx" || flag == "svm";
    }
  }
  if (!virtualises) return "the processor shows neither VT-x nor SVM";
  const UniqueFd kvm(open("/dev/kvm", O_RDWR | O_CLOEXEC));
  return kvm ? "" : absl::StrCat("/dev/kvm: ", strerror(errno));
}

absl::StatusOr<UniqueFd> CatchSignals() {
  signal(SIGPIPE, SIG_IGN);
  // Before there is a thread, so that none gets them. Children get them back: libvirt resets the
  // mask of its own. SIGCHLD must not be ignored, or libvirt's waits fail.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd fd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd) return ErrnoStatus("signalfd");
  return fd;
}

// What the callbacks reach; all on the loop's thread.
struct Running {
  Server* server = nullptr;
  bool ending = false;

  void Reap() const {
    if (server != nullptr) {
      server->Reap();
    } else {
      ReapQemus();
    }
  }
};

void OnSignals(EventLoop* loop, int fd, Running* running) {
  signalfd_siginfo info;
  while (read(fd, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
    if (info.ssi_signo == SIGCHLD) continue;
    running->ending = true;
    if (running->server != nullptr) running->server->ShutDown();
    loop->Post([] {});  // Wakes whoever waits for the start.
  }
  running->Reap();
}

// Connects to libvirt on a thread of its own: it may probe QEMU, which we must reap meanwhile.
absl::StatusOr<std::unique_ptr<Hypervisor>> OpenHypervisor(EventLoop* loop, const std::string& uri,
                                                           const RunDirectory& files, bool kvm,
                                                           Running* running) {
  HypervisorOptions options;
  options.uri = uri;
  options.owner = OwnerTag(files.path());
  options.on_ended = [loop, running](const std::string& domain, DomainEnd end) {
    loop->Post([running, domain, end] {
      if (running->server != nullptr) running->server->OnDomainEnded(domain, end);
    });
  };
  options.on_lost = [loop, running] {
    loop->Post([running] {
      if (running->server != nullptr) running->server->OnLost();
    });
  };
  options.log = Log;
  ASSIGN_OR_RETURN(std::unique_ptr<Hypervisor> hypervisor,
                   Hypervisor::Create(std::move(options), kvm));
  absl::Status connected;
  bool done = false;
  std::thread opener([&] {
    absl::Status status = hypervisor->Connect();
    loop->Post([&, status = std::move(status)] {
      connected = status;
      done = true;
    });
  });
  absl::Status waited;
  while (!done && waited.ok()) waited = loop->RunOnce(-1);
  opener.join();
  RETURN_IF_ERROR(waited);
  // A daemon may start after us, and may be started anew at any time.
  if (!absl::IsUnavailable(connected) || hypervisor->embedded()) RETURN_IF_ERROR(connected);
  if (!connected.ok()) {
    Log(absl::StrCat(connected.message(), "; tried again with each machine to be made"));
  }
  return hypervisor;
}

absl::StatusOr<bool> ChooseKvm(const Options& options) {
  if (options.accel == "tcg") {
    Log("--accel=tcg: the processor is emulated, functions run many times slower");
    return false;
  }
  const std::string why_not = WhyNoKvm();
  if (why_not.empty()) return true;
  if (options.accel == "kvm") return absl::FailedPreconditionError("--accel=kvm: " + why_not);
  Log(absl::StrCat("the processor is emulated, functions run many times slower: ", why_not));
  return false;
}

// Null: by virtio-serial.
absl::StatusOr<std::unique_ptr<VsockListener>> ListenForAgents(const Options& options,
                                                               EventLoop* loop,
                                                               const Running* running) {
  if (options.transport == "virtio-serial") return nullptr;
  auto listener = [&]() -> absl::StatusOr<std::unique_ptr<VsockListener>> {
    RETURN_IF_ERROR(CheckVhostVsock());
    return VsockListener::Create(loop, [running](uint32_t cid, UniqueFd connection) {
      if (running->server != nullptr) running->server->OnAgent(cid, std::move(connection));
    });
  }();
  if (listener.ok()) return listener;
  if (options.transport == "vsock") return Annotate(listener.status(), "--transport=vsock");
  Log(absl::StrCat("agents by virtio-serial: ", listener.status().message()));
  return nullptr;
}

absl::Status Run(const Options& options) {
  ASSIGN_OR_RETURN(const UniqueFd signals, CatchSignals());
  ASSIGN_OR_RETURN(const std::unique_ptr<EventLoop> loop, EventLoop::Create());
  ASSIGN_OR_RETURN(const bool kvm, ChooseKvm(options));
  // libvirt's own words on this standard error: errors only, unless its variables say otherwise.
  setenv("LIBVIRT_DEBUG", "error", /*overwrite=*/0);
  const bool own_root = options.uri.empty();
  const bool embedded = own_root || IsEmbedded(options.uri);
  // A daemon's QEMUs may be of another user, as may those that an operator has configured.
  ASSIGN_OR_RETURN(const std::unique_ptr<RunDirectory> files,
                   RunDirectory::Open(options.run_directory, /*shared=*/!own_root));
  const std::string uri = own_root ? EmbeddedUri(files->EmbeddedFolder()) : options.uri;
  if (embedded) {
    RETURN_IF_ERROR(files->PrepareEmbedded(EmbeddedRoot(uri)));
    if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0) return ErrnoStatus("prctl(SUBREAPER)");
    ASSIGN_OR_RETURN(const int removed, RemoveOrphans(EmbeddedRoot(uri)));
    if (removed > 0) Log(absl::StrCat("ended ", removed, " QEMUs that an earlier run left"));
  }
  Running running;
  RETURN_IF_ERROR(loop->Add(signals.get(), EPOLLIN,
                            [&](uint32_t) { OnSignals(loop.get(), signals.get(), &running); }));
  ASSIGN_OR_RETURN(const std::unique_ptr<Hypervisor> hypervisor,
                   OpenHypervisor(loop.get(), uri, *files, kvm, &running));
  if (running.ending) return absl::OkStatus();
  ServerOptions server_options;
  ASSIGN_OR_RETURN(server_options.listener, launcher::ListenFor(options.listen, options.allow_uid));
  server_options.allowed_uid = options.allow_uid;
  ASSIGN_OR_RETURN(const std::unique_ptr<VsockListener> agents,
                   ListenForAgents(options, loop.get(), &running));
  MachineContext& context = server_options.context;
  context.loop = loop.get();
  context.hypervisor = hypervisor.get();
  context.files = files.get();
  context.uri = uri;
  context.kvm = kvm;
  context.tsc_khz = MeasureTscKhz();
  context.vsock = agents != nullptr;
  context.build = kVersion;
  server_options.log = Log;
  ASSIGN_OR_RETURN(const std::unique_ptr<Server> server, Server::Create(std::move(server_options)));
  running.server = server.get();
  const std::string version = hypervisor->version();
  Log(absl::StrCat("ready: ", uri, ", ", version.empty() ? "not connected yet" : version, ", ",
                   kvm ? "KVM" : "TCG, without KVM", agents ? ", vsock" : ", virtio-serial"));
  absl::Status status = loop->Run();
  running.server = nullptr;
  unlink(options.listen.c_str());
  return status;
}

}  // namespace
}  // namespace hearth::libvirt

// To clang-tidy an empty std::function could be called. NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  hearth::libvirt::Options options;
  CLI::App app(hearth::libvirt::kDescription, "hearth-libvirt");
  hearth::libvirt::AddFlags(&app, &options);
  std::function<absl::Status()> command;
  hearth::libvirt::AddCpuCommands(&app, &command);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = command ? command() : hearth::libvirt::Run(options);
  if (!status.ok()) hearth::libvirt::Log(std::string(status.message()));
  return status.ok() ? 0 : 1;
}
