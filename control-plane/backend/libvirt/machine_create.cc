// SPDX-License-Identifier: Apache-2.0
// How a machine comes to be: CreateMachine.
#include <elf.h>
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
#include "vmm/arch/x86_64/kernel_loader.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

constexpr size_t kUuidBytes = 36;

bool IsUuid(absl::string_view text) {
  if (text.size() != kUuidBytes) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (text[i] == '-')) return false;
    if (!dash && strchr("0123456789abcdef", text[i]) == nullptr) return false;
  }
  return true;
}

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

// QEMU takes much for a kernel, and then runs what is none: hearth-vmm's is an ELF file, always.
absl::Status CheckKernel(int fd) {
  Elf64_Ehdr header{};
  if (pread(fd, &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header)) ||
      memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_machine != EM_X86_64) {
    return absl::InvalidArgumentError("the kernel is no ELF file for x86-64 (a vmlinux)");
  }
  return absl::OkStatus();
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
        absl::StrCat("CreateMachine without the descriptor of ", what));
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

}  // namespace

struct Machine::CreateJob {
  DomainSpec spec;
  UniqueFd kernel;
  std::vector<UniqueFd> disks;
  UniqueFd console;  // The controller's.
  uint32_t console_bytes_per_second = 0;
};

absl::StatusOr<std::shared_ptr<Machine::CreateJob>> Machine::ParseCreate(
    const vmm::v1::CreateMachine& request, std::vector<UniqueFd> fds) {
  if (state_ != State::kEmpty) {
    return absl::FailedPreconditionError("this session has its machine already");
  }
  if (request.has_initrd()) {
    return absl::UnimplementedError("hearth-libvirt boots without an initrd");
  }
  auto job = std::make_shared<CreateJob>();
  std::string id = request.instance_id();
  if (id.empty()) {
    ASSIGN_OR_RETURN(id, RandomUuid());
  } else if (!IsUuid(id)) {
    return absl::InvalidArgumentError("CreateMachine's instance_id is no UUID");
  }
  DomainSpec& spec = job->spec;
  spec.name = absl::StrCat(kDomainPrefix, id);
  spec.kvm = context_->kvm;
  spec.memory_mib = request.memory_mib();
  spec.vcpu_count = request.vcpu_count();
  // The last word on the transport is ours: there is no vsock device.
  spec.command_line = absl::StrCat(request.command_line(), " hearth.transport=virtio-serial");
  spec.entropy = request.entropy();
  spec.agent_socket = context_->files->AgentSocket(spec.name);
  ASSIGN_OR_RETURN(job->kernel, Take(fds, request.kernel_fd(), "the kernel"));
  RETURN_IF_ERROR(CheckKernel(job->kernel.get()));
  for (const vmm::v1::Disk& disk : request.disks()) {
    ASSIGN_OR_RETURN(UniqueFd file, Take(fds, disk.fd(), "a disk"));
    job->disks.push_back(std::move(file));
    spec.disks.push_back({disk.serial(), disk.read_only()});
  }
  if (request.has_console()) {
    ASSIGN_OR_RETURN(job->console, Take(fds, request.console().fd(), "the console"));
    job->console_bytes_per_second = request.console().bytes_per_second();
    spec.console_socket = context_->files->ConsoleSocket(spec.name);
  }
  RETURN_IF_ERROR(DomainXml(spec).status());
  return job;
}

void Machine::Create(uint64_t id, const vmm::v1::CreateMachine& request,
                     std::vector<UniqueFd> fds) {
  absl::StatusOr<std::shared_ptr<CreateJob>> job = ParseCreate(request, std::move(fds));
  if (!job.ok()) return Answer(id, job.status());
  state_ = State::kCreating;
  name_ = (*job)->spec.name;
  worker_ = std::make_unique<Worker>();
  worker_->Do([this, id, job = *std::move(job)] {
    auto made = std::make_shared<absl::StatusOr<Made>>(Make(*job));
    context_->loop->Post([this, id, job, made] { OnMade(id, job, std::move(*made)); });
  });
}

absl::StatusOr<Machine::Made> Machine::Make(const CreateJob& job) {
  DomainSpec spec = job.spec;
  RETURN_IF_ERROR(CheckKernel(job.kernel.get(), spec.memory_mib));
  ASSIGN_OR_RETURN(spec.kernel_path, context_->files->Kernel(job.kernel.get()));
  absl::StatusOr<Domain> domain = context_->hypervisor->Create(spec, job.disks);
  // A daemon that went in the middle of it may not know of its QEMU when it is back.
  if (absl::IsUnavailable(domain.status())) EndQemuOf(spec.name).IgnoreError();
  RETURN_IF_ERROR(domain.status());
  domain_ = *std::move(domain);
  Made made;
  ASSIGN_OR_RETURN(qemu_, FindQemu(context_->uri, spec.name));
  made.process.pid = qemu_.pid;
  made.process.pidfd.reset(fcntl(qemu_.pidfd.get(), F_DUPFD_CLOEXEC, 0));
  if (!made.process.pidfd) return ErrnoStatus("fcntl(F_DUPFD_CLOEXEC)");
  ASSIGN_OR_RETURN(made.agent, Dial(spec.agent_socket));
  // Before the guest runs: what nobody listens to is lost.
  if (job.console) {
    ASSIGN_OR_RETURN(made.console, Dial(spec.console_socket));
  }
  return made;
}

void Machine::OnMade(uint64_t id, const std::shared_ptr<CreateJob>& job,
                     absl::StatusOr<Made> made) {
  absl::Status status = made.status();
  if (status.ok()) {
    process_ = std::move(made->process);
    agent_ = std::move(made->agent);
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
  state_ = State::kCreated;
  Answer(id, absl::OkStatus(), std::move(response), std::move(fds));
}

}  // namespace hearth::libvirt
