// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/domain_xml.h"
#include "control-plane/backend/libvirt/limits.h"
#include "control-plane/backend/libvirt/qemu_process.h"
#include "control-plane/launcher/limits.h"
#include "control-plane/launcher/listener.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {

using launcher::Session;

absl::StatusOr<std::unique_ptr<Server>> Server::Create(ServerOptions options) {
  std::unique_ptr<Server> server(new Server(std::move(options)));
  server->options_.context.reap = [self = server.get()] { self->Reap(); };
  server->options_.context.domains = &server->domains_;
  RETURN_IF_ERROR(
      server->options_.context.loop->Add(server->options_.listener.get(), EPOLLIN,
                                         [self = server.get()](uint32_t) { self->Accept(); }));
  return server;
}

Server::~Server() { options_.context.loop->Remove(options_.listener.get()); }

void Server::Accept() {
  UniqueFd connection(
      accept4(options_.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection) return;  // The client left before we came.
  if (const absl::Status admitted = Admit(connection.get()); !admitted.ok()) {
    options_.log(absl::StrCat("refused a connection: ", admitted.message()));
    return;
  }
  launcher::v1::Hello hello;
  hello.set_build(options_.context.build);
  hello.set_vsock(options_.context.vsock);
  auto session =
      Session::Create(options_.context.loop, this, std::move(connection), std::move(hello));
  if (!session.ok()) {
    options_.log(absl::StrCat("lost a connection: ", session.status().message()));
    return;
  }
  Session* const key = session->get();
  sessions_.emplace(key, *std::move(session));
}

absl::Status Server::Admit(int connection) {
  RETURN_IF_ERROR(launcher::CheckPeer(connection, options_.allowed_uid));
  if (shutting_down_) return absl::UnavailableError("hearth-libvirt is ending");
  if (sessions_.size() >= launcher::kMaxSessions)
    return absl::ResourceExhaustedError("too many sessions");
  return absl::OkStatus();
}

absl::StatusOr<launcher::SpawnedVmm> Server::Spawn(Session* session, uint64_t id, uint32_t,
                                                   UniqueFd control) {
  if (shutting_down_) return absl::UnavailableError("hearth-libvirt is ending");
  size_t alive = 0;  // One that has ended is told of before it is erased.
  for (const auto& [number, entry] : machines_) {
    if (entry.ended) continue;
    ++alive;
    if (entry.session == session && entry.id == id) {
      return absl::AlreadyExistsError(absl::StrCat("this session has a machine ", id));
    }
  }
  if (alive >= kMaxMachines) return absl::ResourceExhaustedError("too many machines");
  // Until there is a QEMU, whose process CreateMachine's answer tells.
  launcher::SpawnedVmm spawned;
  spawned.pid = getpid();
  spawned.pidfd.reset(static_cast<int>(syscall(SYS_pidfd_open, spawned.pid, 0)));
  if (!spawned.pidfd) return ErrnoStatus("pidfd_open");
  const uint64_t number = next_number_++;
  ASSIGN_OR_RETURN(
      std::unique_ptr<Machine> machine,
      Machine::Create(&options_.context, std::move(control),
                      [this, number](const auto& exited) { OnMachineEnd(number, exited); }));
  machines_.emplace(number, Entry{session, id, false, std::move(machine)});
  return spawned;
}

void Server::Kill(Session* session, uint64_t id) {
  for (auto& [number, entry] : machines_) {
    if (entry.session != session || entry.id != id || entry.ended) continue;
    entry.machine->End(vmm::v1::Exited::REASON_STOPPED, "it was ended by force");
  }
}

// CreateMachine says how much memory there is, and QEMU allots no more.
void Server::SetMemory(Session*, uint64_t, uint32_t) {}

absl::StatusOr<UniqueFd> Server::OpenPagemapOf(Session*, uint64_t) {
  return absl::UnimplementedError("hearth-libvirt does not look into QEMU's memory");
}

// Those that have a QEMU, and whose QEMU runs.
std::vector<uint64_t> Server::List(const Session* session) {
  std::vector<uint64_t> ids;
  for (const auto& [number, entry] : machines_) {
    if (entry.session == session && !entry.ended && entry.machine->Runs()) ids.push_back(entry.id);
  }
  return ids;
}

void Server::Ended(Session* session, const absl::Status& why) {
  options_.log(absl::StrCat("a session ended: ", why.message()));
  for (auto& [number, entry] : machines_) {
    if (entry.session != session) continue;
    entry.session = nullptr;
    if (!entry.ended) entry.machine->End(vmm::v1::Exited::REASON_STOPPED, "its session ended");
  }
  // The session is still on the stack.
  options_.context.loop->Post([this, session] { sessions_.erase(session); });
}

void Server::OnDomainEnded(const std::string& domain, DomainEnd end) {
  bool is_left = IsDomainName(domain);
  for (auto& [number, entry] : machines_) {
    if (entry.machine->domain_name() != domain) continue;
    is_left = false;
    if (!entry.ended) entry.machine->OnDomainEnded(end);
  }
  // The daemon ends what a killed hearth-libvirt had booted, maybe after we removed what was left,
  // and writes to its log then. Of another hearth-libvirt's it has no use either: the machine
  // ended.
  if (is_left) RemoveLog(options_.context.uri, domain);
}

void Server::OnAgent(uint32_t vsock_cid, UniqueFd connection) {
  for (auto& [number, entry] : machines_) {
    if (entry.ended || entry.machine->vsock_cid() != vsock_cid) continue;
    return entry.machine->OnAgent(std::move(connection));
  }
}

void Server::OnLost() {
  options_.log("the connection to libvirt was lost; the next machine has it opened anew");
  for (auto& [number, entry] : machines_) {
    if (entry.ended || entry.machine->domain_name().empty()) continue;
    entry.machine->End(vmm::v1::Exited::REASON_HOST_ERROR, "the connection to libvirt was lost");
  }
}

void Server::Reap() {
  for (const Reaped& reaped : ReapQemus()) {
    for (auto& [number, entry] : machines_) {
      if (!entry.ended && entry.machine->pid() == reaped.pid) entry.machine->OnReaped(reaped);
    }
  }
}

void Server::OnMachineEnd(uint64_t number, const launcher::v1::Exited& ended) {
  Entry& entry = machines_.at(number);
  entry.ended = true;
  launcher::v1::Exited exited = ended;
  exited.set_id(entry.id);
  Session* const session = entry.session;
  if (session != nullptr) session->SendExited(exited);
  // The machine is still on the stack.
  options_.context.loop->Post([this, number] {
    machines_.erase(number);
    StopWhenEmpty();
  });
}

void Server::ShutDown() {
  shutting_down_ = true;
  for (auto& [number, entry] : machines_) {
    if (!entry.ended) {
      entry.machine->End(vmm::v1::Exited::REASON_STOPPED, "hearth-libvirt is ending");
    }
  }
  StopWhenEmpty();
}

void Server::StopWhenEmpty() {
  if (shutting_down_ && machines_.empty()) options_.context.loop->Stop();
}

}  // namespace hearth::libvirt
