// SPDX-License-Identifier: Apache-2.0
// How a machine comes to be: CreateMachine and RestoreMachine.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "control-plane/backend/libvirt/limits.h"
#include "control-plane/backend/libvirt/machine.h"
#include "control-plane/backend/libvirt/vsock_listener.h"
#include "vmm/arch/x86_64/kernel_loader.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

absl::StatusOr<std::string> RandomUuid() {
  std::array<uint8_t, 16> b;
  if (getrandom(b.data(), b.size(), 0) != static_cast<ssize_t>(b.size())) {
    return ErrnoStatus("getrandom");
  }
  b[6] = (b[6] & 0x0F) | 0x40;
  b[8] = (b[8] & 0x3F) | 0x80;
  return absl::StrFormat("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                         b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
                         b[12], b[13], b[14], b[15]);
}

absl::StatusOr<UniqueFd> Dial(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is too long for a socket"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket) return ErrnoStatus("socket");
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoStatus(absl::StrCat("connecting to QEMU's ", path));
  }
  return socket;
}

absl::StatusOr<UniqueFd> Take(std::vector<UniqueFd>& fds, uint32_t index, absl::string_view what) {
  if (index >= fds.size() || !fds[index]) {
    return absl::InvalidArgumentError(
        absl::StrCat("a machine is asked for without the descriptor of ", what));
  }
  return std::move(fds[index]);
}

// QEMU starts whatever it is given, and the guest would only hang.
absl::Status CheckKernel(int kernel, uint32_t memory_mib) {
  ASSIGN_OR_RETURN(
      const vmm::GuestMemory memory,
      vmm::GuestMemory::CreateAnonymous(vmm::x86_64::RamRanges(uint64_t{memory_mib} << 20)));
  return vmm::x86_64::LoadKernel(kernel, memory).status();
}

absl::Status TakeDisks(const google::protobuf::RepeatedPtrField<vmm::v1::Disk>& disks,
                       std::vector<UniqueFd>& fds, DomainSpec* spec, std::vector<UniqueFd>* files) {
  for (const vmm::v1::Disk& disk : disks) {
    ASSIGN_OR_RETURN(UniqueFd file, Take(fds, disk.fd(), "a disk"));
    files->push_back(std::move(file));
    spec->disks.push_back({disk.serial(), disk.read_only()});
  }
  return absl::OkStatus();
}

}  // namespace

struct Machine::Job {
  DomainSpec spec;
  std::vector<UniqueFd> disks;
  UniqueFd console;  // The controller's.
  uint32_t console_bytes_per_second = 0;
  UniqueFd kernel;
  // Instead of the kernel, of one that is restored:
  std::optional<v1::SavedDomain> saved;
  UniqueFd memory;
  bool resume = false;
};

absl::Status Machine::AddConsole(const vmm::v1::Console& console, std::vector<UniqueFd>& fds,
                                 Job* job) {
  ASSIGN_OR_RETURN(job->console, Take(fds, console.fd(), "the console"));
  job->console_bytes_per_second = console.bytes_per_second();
  job->spec.console_socket = context_->files->ConsoleSocket(NameOf(job->spec));
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Machine::Job>> Machine::ParseCreate(
    const vmm::v1::CreateMachine& request, std::vector<UniqueFd> fds) {
  if (request.has_initrd()) {
    return absl::UnimplementedError("hearth-libvirt boots without an initrd");
  }
  auto job = std::make_shared<Job>();
  DomainSpec& spec = job->spec;
  spec.uuid = request.instance_id();
  if (spec.uuid.empty()) {
    ASSIGN_OR_RETURN(spec.uuid, RandomUuid());
  }
  spec.kvm = context_->kvm;
  spec.memory_mib = request.memory_mib();
  spec.vcpu_count = request.vcpu_count();
  // The last word on the transport is ours: there is one of the two devices.
  spec.command_line = absl::StrCat(
      request.command_line(), " hearth.transport=", context_->vsock ? "vsock" : "virtio-serial");
  // QEMU without KVM shows the guest the host's own TSC, whose rate Linux measures by a timer, to
  // do without the TSC when the host is too busy for it: the guest's clock would step by 10 ms.
  if (!context_->kvm) absl::StrAppend(&spec.command_line, " tsc_early_khz=", context_->tsc_khz);
  if (context_->vsock) {
    ASSIGN_OR_RETURN(spec.vsock_cid, RandomContextId());
  }
  spec.entropy = request.entropy();
  ASSIGN_OR_RETURN(job->kernel, Take(fds, request.kernel_fd(), "the kernel"));
  RETURN_IF_ERROR(TakeDisks(request.disks(), fds, &spec, &job->disks));
  if (request.has_console()) RETURN_IF_ERROR(AddConsole(request.console(), fds, job.get()));
  return job;
}

absl::StatusOr<std::shared_ptr<Machine::Job>> Machine::ParseRestore(
    const vmm::v1::RestoreMachine& request, std::vector<UniqueFd> fds) {
  if (request.has_pager()) {
    return absl::UnimplementedError("hearth-libvirt restores from a memory file, without a pager");
  }
  auto job = std::make_shared<Job>();
  ASSIGN_OR_RETURN(const UniqueFd state, Take(fds, request.state_fd(), "the state"));
  ASSIGN_OR_RETURN(job->memory, Take(fds, request.memory_fd(), "the memory"));
  ASSIGN_OR_RETURN(const v1::SavedDomain saved, ReadSaved(state.get()));
  DomainSpec& spec = job->spec;
  spec.uuid = saved.uuid();
  spec.kvm = saved.kvm();
  spec.memory_mib = saved.memory_mib();
  spec.vcpu_count = saved.vcpu_count();
  spec.entropy = saved.entropy();
  if (saved.vsock()) {
    ASSIGN_OR_RETURN(spec.vsock_cid, RandomContextId());
  }
  job->resume = request.resume();
  RETURN_IF_ERROR(TakeDisks(request.disks(), fds, &spec, &job->disks));
  if (request.has_console()) RETURN_IF_ERROR(AddConsole(request.console(), fds, job.get()));
  job->saved = saved;
  return job;
}

void Machine::Create(uint64_t id, const vmm::v1::CreateMachine& request,
                     std::vector<UniqueFd> fds) {
  Begin(id, ParseCreate(request, std::move(fds)));
}

void Machine::Restore(uint64_t id, const vmm::v1::RestoreMachine& request,
                      std::vector<UniqueFd> fds) {
  Begin(id, ParseRestore(request, std::move(fds)));
}

void Machine::Begin(uint64_t id, absl::StatusOr<std::shared_ptr<Job>> job) {
  if (state_ != State::kEmpty) {
    return Answer(id, absl::FailedPreconditionError("this session has its machine already"));
  }
  if (!job.ok()) return Answer(id, job.status());
  DomainSpec& spec = (*job)->spec;
  spec.owner = OwnerTag(context_->files->path());
  spec.agent_socket = context_->files->AgentSocket(NameOf(spec));
  if (const absl::Status possible = DomainXml(spec).status(); !possible.ok()) {
    return Answer(id, possible);
  }
  if (!context_->domains->insert(NameOf(spec)).second) {
    return Answer(id, absl::ResourceExhaustedError(absl::StrCat(
                          "the domain ", NameOf(spec),
                          " is there already: a saved one serves one machine at a time")));
  }
  state_ = State::kCreating;
  name_ = NameOf(spec);
  vsock_cid_ = spec.vsock_cid;
  worker_ = std::make_unique<Worker>();
  worker_->Do([this, id, job = *std::move(job)] {
    auto made = std::make_shared<absl::StatusOr<Made>>(Make(*job));
    context_->loop->Post([this, id, job, made] { OnMade(id, job, std::move(*made)); });
  });
}

absl::StatusOr<Domain> Machine::MakeDomain(Job& job) {
  if (!job.saved.has_value()) {
    RETURN_IF_ERROR(CheckKernel(job.kernel.get(), job.spec.memory_mib));
    ASSIGN_OR_RETURN(job.spec.kernel_path, context_->files->Kernel(job.kernel.get()));
    return context_->hypervisor->Create(job.spec, job.disks);
  }
  // Only who is connected knows its versions, which may be others than before.
  RETURN_IF_ERROR(context_->hypervisor->Connect());
  RETURN_IF_ERROR(CheckSaved(*job.saved, context_->hypervisor->version(), context_->kvm,
                             context_->vsock, job.spec.disks, job.disks, bool{job.console}));
  const std::string image = context_->files->ImageFile(name_);
  RETURN_IF_ERROR(WriteImage(*job.saved, job.memory.get(), image));
  absl::StatusOr<Domain> domain = context_->hypervisor->Restore(job.spec, job.disks, image);
  unlink(image.c_str());
  return domain;
}

absl::StatusOr<Machine::Made> Machine::Make(Job& job) {
  absl::StatusOr<Domain> domain = MakeDomain(job);
  // A daemon that went in the middle of it may not know of its QEMU when it is back.
  if (absl::IsUnavailable(domain.status())) EndQemuOf(name_).IgnoreError();
  RETURN_IF_ERROR(domain.status());
  domain_ = *std::move(domain);
  ASSIGN_OR_RETURN(description_, Describe(job.spec, job.disks, context_->hypervisor->version()));
  Made made;
  ASSIGN_OR_RETURN(qemu_, FindQemu(context_->uri, name_));
  made.process.pid = qemu_.pid;
  made.process.pidfd.reset(fcntl(qemu_.pidfd.get(), F_DUPFD_CLOEXEC, 0));
  if (!made.process.pidfd) return ErrnoStatus("fcntl(F_DUPFD_CLOEXEC)");
  // Before the guest runs: what nobody listens to is lost. And to a restored one the port was open
  // all the time.
  if (job.spec.vsock_cid == 0) {
    ASSIGN_OR_RETURN(made.agent, Dial(job.spec.agent_socket));
  }
  if (job.console) {
    ASSIGN_OR_RETURN(made.console, Dial(job.spec.console_socket));
  }
  if (job.resume) RETURN_IF_ERROR(domain_->Resume());
  return made;
}

void Machine::OnMade(uint64_t id, const std::shared_ptr<Job>& job, absl::StatusOr<Made> made) {
  absl::Status status = made.status();
  if (status.ok()) {
    process_ = std::move(made->process);
    if (made->agent) agent_ = std::move(made->agent);
    status =
        context_->loop->Add(process_.pidfd.get(), EPOLLIN, [this](uint32_t) { OnProcessEnded(); });
  }
  if (status.ok() && made->console) {
    auto console = ConsoleCopy::Start(context_->loop, std::move(made->console),
                                      std::move(job->console), job->console_bytes_per_second);
    status = console.status();
    if (status.ok()) console_ = *std::move(console);
  }
  if (status.ok() && state_ == State::kEnding) status = EndingStatus();
  vmm::v1::Response response;
  std::vector<UniqueFd> fds;
  if (status.ok()) {
    UniqueFd pidfd(fcntl(process_.pidfd.get(), F_DUPFD_CLOEXEC, 0));
    if (!pidfd) status = ErrnoStatus("fcntl(F_DUPFD_CLOEXEC)");
    vmm::v1::Process& process = *response.mutable_created()->mutable_process();
    process.set_pid(process_.pid);
    process.set_pidfd(0);
    fds.push_back(std::move(pidfd));
  }
  if (!status.ok()) {
    Answer(id, status);
    return End(vmm::v1::Exited::REASON_HOST_ERROR, std::string(status.message()));
  }
  running_ = job->resume;
  state_ = job->saved.has_value() ? State::kStarted : State::kCreated;
  Answer(id, absl::OkStatus(), std::move(response), std::move(fds));
  if (state_ == State::kStarted) SendAgent();
}

}  // namespace hearth::libvirt
