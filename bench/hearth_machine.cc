// SPDX-License-Identifier: Apache-2.0
// hearth-vmm, driven over hearth.vmm.v1 as hearthd does it.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/clock.h"
#include "bench/machines.h"
#include "vmm/testing/tiny_guest.h"
#include "vmm/testing/vmm_process.h"
#include "wire/limits.h"

namespace hearth::bench {
namespace {

using vmm::testing::VmmProcess;
namespace v1 = hearth::vmm::v1;

constexpr int kBootTimeoutMs = 120'000;
constexpr size_t kDiskBytes = 1 << 20;

// mov edx, 0x3f8; mov al, '!'; out dx, al; then halted with interrupts off for good, so that its
// memory can be looked at.
const std::string kByteAndHalt("\xba\xf8\x03\x00\x00\xb0\x21\xee\xf4\xeb\xfd", 11);

// hearthd's, without the console, which nobody reads here.
constexpr char kAgentCommandLine[] =
    "root=/dev/vda ro rootfstype=erofs init=/hearth-agent quiet loglevel=4 reboot=t panic=-1 "
    "random.trust_cpu=on tsc=reliable no_timer_check i8042.noaux i8042.nokbd";

double Ms(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

absl::StatusOr<UniqueFd> Open(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC));
  if (!fd) return ErrnoStatus(absl::StrCat("open ", path));
  return fd;
}

absl::Status WriteFile(const std::string& path, absl::string_view bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  return file ? absl::OkStatus() : ErrnoStatus(absl::StrCat("write ", path));
}

class HearthMachine : public BootedMachine {
 public:
  explicit HearthMachine(VmmProcess process) : process(std::move(process)) {}
  pid_t pid() const override { return process.pid(); }
  VmmProcess process;
  std::vector<UniqueFd> kept;
};

// Collects descriptors for one frame and their numbers in it.
class FdList {
 public:
  uint32_t Add(UniqueFd fd) {
    fds_.push_back(std::move(fd));
    return static_cast<uint32_t>(fds_.size() - 1);
  }
  std::vector<UniqueFd> Take() { return std::move(fds_); }

 private:
  std::vector<UniqueFd> fds_;
};

void AddDisk(v1::CreateMachine* create, FdList* fds, UniqueFd file, bool read_only,
             const std::string& serial) {
  v1::Disk& disk = *create->add_disks();
  disk.set_fd(fds->Add(std::move(file)));
  disk.set_read_only(read_only);
  disk.set_serial(serial);
}

absl::Status AwaitByte(int fd, const char* what) {
  pollfd entry{fd, POLLIN, 0};
  char byte = 0;
  if (poll(&entry, 1, kBootTimeoutMs) != 1) {
    return absl::DeadlineExceededError(absl::StrCat("no ", what, " within two minutes"));
  }
  if (read(fd, &byte, 1) != 1) return absl::DataLossError(absl::StrCat("no ", what));
  return absl::OkStatus();
}

// Spawns, creates and starts a machine; the times since `start_ns` go into its sample.
absl::StatusOr<std::unique_ptr<HearthMachine>> Launch(const std::string& vmm, uint64_t start_ns,
                                                      v1::Request create, FdList fds) {
  ASSIGN_OR_RETURN(VmmProcess process, VmmProcess::Spawn(vmm));
  auto machine = std::make_unique<HearthMachine>(std::move(process));
  machine->sample["hello_ms"] = Ms(NowNs() - start_ns);
  RETURN_IF_ERROR(machine->process.Call(std::move(create), fds.Take()).status());
  machine->sample["created_ms"] = Ms(NowNs() - start_ns);
  v1::Request start;
  start.mutable_start();
  RETURN_IF_ERROR(machine->process.Call(std::move(start)).status());
  machine->sample["started_ms"] = Ms(NowNs() - start_ns);
  return machine;
}

absl::Status AddStatistics(HearthMachine* machine) {
  v1::Request request;
  request.mutable_get_statistics();
  ASSIGN_OR_RETURN(const v1::Response response, machine->process.Call(std::move(request)));
  const v1::Statistics& statistics = response.statistics();
  machine->sample["exits"] = static_cast<double>(statistics.exits());
  machine->sample["cpu_ms"] = Ms(statistics.process_cpu_ns());
  machine->sample["vcpu_cpu_ms"] = Ms(statistics.vcpu_cpu_ns());
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> ReadManifest(const std::string& images) {
  std::ifstream file(images + "/manifest.json");
  nlohmann::json manifest = nlohmann::json::parse(file, nullptr, false);
  if (manifest.is_discarded()) {
    return absl::NotFoundError(absl::StrCat(
        images, "/manifest.json is not there or no JSON; guest-images/build makes a store"));
  }
  return manifest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BootFiles>> BootFiles::Create() {
  std::string folder = (std::filesystem::temp_directory_path() / "hearth-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) return ErrnoStatus(absl::StrCat("mkdtemp ", folder));
  std::unique_ptr<BootFiles> files(new BootFiles(folder));
  RETURN_IF_ERROR(WriteFile(files->kernel(), vmm::testing::KernelOf(kByteAndHalt)));
  const std::string disk(kDiskBytes, '\0');
  RETURN_IF_ERROR(WriteFile(files->read_only_disk(), disk));
  RETURN_IF_ERROR(WriteFile(files->writable_disk(), disk));
  return files;
}

BootFiles::~BootFiles() {
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

absl::StatusOr<std::unique_ptr<BootedMachine>> BootHearth(const BootOptions& options,
                                                          const BootFiles& files) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return ErrnoStatus("pipe2");
  UniqueFd console(ends[0]);
  UniqueFd console_writer(ends[1]);
  // Opening what is handed over is part of starting a machine, so it counts.
  const uint64_t start_ns = NowNs();
  v1::Request request;
  v1::CreateMachine& create = *request.mutable_create();
  FdList fds;
  create.set_memory_mib(static_cast<uint32_t>(options.memory_mib));
  create.set_vcpu_count(1);
  ASSIGN_OR_RETURN(UniqueFd kernel, Open(files.kernel(), O_RDONLY));
  create.set_kernel_fd(fds.Add(std::move(kernel)));
  create.mutable_console()->set_fd(fds.Add(std::move(console_writer)));
  ASSIGN_OR_RETURN(UniqueFd read_only, Open(files.read_only_disk(), O_RDONLY));
  AddDisk(&create, &fds, std::move(read_only), true, "ro");
  ASSIGN_OR_RETURN(UniqueFd writable, Open(files.writable_disk(), O_RDWR));
  AddDisk(&create, &fds, std::move(writable), false, "rw");
  create.set_entropy(true);
  create.mutable_vsock()->set_guest_cid(kGuestCid);
  create.mutable_vsock()->add_guest_ports(wire::kAgentHostPort);
  ASSIGN_OR_RETURN(auto machine, Launch(options.vmm, start_ns, std::move(request), std::move(fds)));
  RETURN_IF_ERROR(AwaitByte(console.get(), "byte from the guest"));
  machine->sample["first_byte_ms"] = Ms(NowNs() - start_ns);
  machine->kept.push_back(std::move(console));
  RETURN_IF_ERROR(AddStatistics(machine.get()));
  return machine;
}

absl::StatusOr<std::unique_ptr<BootedMachine>> BootAgent(const BootOptions& options) {
  ASSIGN_OR_RETURN(const nlohmann::json manifest, ReadManifest(options.images));
  const auto path = [&](const char* pointer) {
    const std::string relative = manifest.value(nlohmann::json::json_pointer(pointer), "");
    return (std::filesystem::path(options.images) / relative).string();
  };
  const uint64_t start_ns = NowNs();
  v1::Request request;
  v1::CreateMachine& create = *request.mutable_create();
  FdList fds;
  create.set_memory_mib(static_cast<uint32_t>(options.memory_mib));
  create.set_vcpu_count(1);
  ASSIGN_OR_RETURN(UniqueFd kernel, Open(path("/kernel/path"), O_RDONLY));
  create.set_kernel_fd(fds.Add(std::move(kernel)));
  create.set_command_line(kAgentCommandLine);
  ASSIGN_OR_RETURN(UniqueFd agent, Open(path("/agent/path"), O_RDONLY));
  AddDisk(&create, &fds, std::move(agent), true, "agent");
  const std::string runtime = "/runtimes/" + options.runtime + "/image/path";
  ASSIGN_OR_RETURN(UniqueFd runtime_image, Open(path(runtime.c_str()), O_RDONLY));
  AddDisk(&create, &fds, std::move(runtime_image), true, "runtime");
  create.set_entropy(true);
  create.mutable_vsock()->set_guest_cid(kGuestCid);
  create.mutable_vsock()->add_guest_ports(wire::kAgentHostPort);
  ASSIGN_OR_RETURN(auto machine, Launch(options.vmm, start_ns, std::move(request), std::move(fds)));
  ASSIGN_OR_RETURN(VmmProcess::Event event, machine->process.NextEvent(kBootTimeoutMs));
  if (!event.event.has_vsock_connection() ||
      event.event.vsock_connection().fd() >= event.fds.size()) {
    return absl::InternalError(
        absl::StrCat("instead of the agent's connection came ", event.event.exited().detail()));
  }
  UniqueFd connection = std::move(event.fds[event.event.vsock_connection().fd()]);
  RETURN_IF_ERROR(AwaitByte(connection.get(), "Hello of the agent"));
  machine->sample["agent_ready_ms"] = Ms(NowNs() - start_ns);
  machine->kept.push_back(std::move(connection));
  RETURN_IF_ERROR(AddStatistics(machine.get()));
  return machine;
}

}  // namespace hearth::bench
