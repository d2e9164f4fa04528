// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/host_cpu.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "control-plane/backend/libvirt/event_thread.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

namespace fs = std::filesystem;

// Knows libvirt's map of processors, and needs nothing of the host.
constexpr char kNoHost[] = "test:///default";

using Driver = std::unique_ptr<virConnect, int (*)(virConnectPtr)>;
using Text = std::unique_ptr<char, void (*)(void*)>;

// Why libvirt's last call failed; the rest of its message shows the text that it did not
// understand.
std::string Why() {
  const std::string message = virGetLastErrorMessage();
  return absl::StrCat("libvirt: ", message.substr(0, message.find('\n')));
}

Driver OpenDriver(const std::string& uri) {
  return Driver(virConnectOpen(uri.c_str()), virConnectClose);
}

// Made for the driver's files, and removed.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::error_code error;
    path_ = (fs::temp_directory_path(error) / "hearth-cpu-XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }  // Empty: it could not be made.

 private:
  std::string path_;
};

// The value of an attribute within `tag`; libvirt writes single quotes.
std::string Attribute(absl::string_view tag, absl::string_view name) {
  const std::string opening = absl::StrCat(" ", name, "='");
  const size_t begin = tag.find(opening);
  if (begin == absl::string_view::npos) return "";
  const absl::string_view value = tag.substr(begin + opening.size());
  return std::string(value.substr(0, value.find('\'')));
}

absl::Status CheckXml(const NamedCpu& cpu) {
  if (cpu.xml.empty() || cpu.xml.size() > kMaxCpuXmlBytes) {
    return absl::InvalidArgumentError(absl::StrCat(cpu.name, ": ", cpu.xml.size(),
                                                   " bytes are no description of a processor; it "
                                                   "has at most ",
                                                   kMaxCpuXmlBytes));
  }
  // A description has neither; a parser has had trouble with both.
  if (cpu.xml.find('\0') != std::string::npos || cpu.xml.find("<!") != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(cpu.name, ": a processor's XML has no zero bytes, and no <!DOCTYPE or <!--"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<CpuDescription> ReadCpu(absl::string_view xml) {
  CpuDescription cpu;
  cpu.xml = std::string(xml);
  const size_t model = xml.find("<model");
  if (model != absl::string_view::npos) {
    const absl::string_view rest = xml.substr(model);
    const size_t begin = rest.find('>') + 1;
    cpu.model = std::string(rest.substr(begin, rest.find("</model>") - begin));
  }
  if (cpu.model.empty()) {
    return absl::FailedPreconditionError("libvirt has no name for this processor");
  }
  for (size_t at = xml.find("<feature "); at != absl::string_view::npos;
       at = xml.find("<feature ", at + 1)) {
    const absl::string_view tag = xml.substr(at, xml.find('>', at) - at);
    // Of a host's own description no feature has a policy: it has them all.
    (Attribute(tag, "policy") == "disable" ? cpu.fewer : cpu.more)
        .push_back(Attribute(tag, "name"));
  }
  return cpu;
}

absl::StatusOr<CpuDescription> DescribeHostCpu() {
  const TemporaryFolder folder;
  if (folder.path().empty()) return ErrnoStatus("making a temporary folder");
  // The driver starts each QEMU that it finds, to see what that can do: it takes seconds, and says
  // nothing about the host. Without root it keeps files below HOME as well.
  setenv("PATH", folder.path().c_str(), 1);
  setenv("HOME", folder.path().c_str(), 1);
  for (const char* name : {"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"}) unsetenv(name);
  // What it logs is in the error as well.
  setenv("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null", 0);
  ASSIGN_OR_RETURN(const std::unique_ptr<EventThread> events, EventThread::Start());
  const Driver driver = OpenDriver("qemu:///embed?root=" + folder.path());
  if (driver == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(Why(),
                     "; it needs the package libvirt-daemon-driver-qemu and, as root, its "
                     "user and group libvirt-qemu"));
  }
  const Text text(virConnectGetCapabilities(driver.get()), free);
  if (text == nullptr) return absl::FailedPreconditionError(Why());
  const absl::string_view capabilities(text.get());
  const size_t begin = capabilities.find("<cpu>");
  const size_t end = capabilities.find("</cpu>");
  if (begin == absl::string_view::npos || end == absl::string_view::npos || end < begin) {
    return absl::FailedPreconditionError("libvirt does not tell this host's processor");
  }
  return ReadCpu(capabilities.substr(begin, end + 6 - begin));
}

absl::StatusOr<CpuDescription> BaselineCpu(const std::vector<NamedCpu>& cpus) {
  if (cpus.empty() || cpus.size() > kMaxComparedCpus) {
    return absl::InvalidArgumentError(
        absl::StrCat(cpus.size(), " processors; from 1 to ", kMaxComparedCpus, " are compared"));
  }
  for (const NamedCpu& cpu : cpus) RETURN_IF_ERROR(CheckXml(cpu));
  ASSIGN_OR_RETURN(const std::unique_ptr<EventThread> events, EventThread::Start());
  const Driver driver = OpenDriver(kNoHost);
  if (driver == nullptr) return absl::InternalError(Why());
  const auto baseline = [&](const char** xmls, size_t count) {
    return Text(virConnectBaselineCPU(driver.get(), xmls, static_cast<unsigned>(count), 0), free);
  };
  std::vector<const char*> xmls;
  for (const NamedCpu& cpu : cpus) {
    const char* xml = cpu.xml.c_str();
    // Alone, so that what is wrong has a name.
    if (baseline(&xml, 1) == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(cpu.name, ": ", Why()));
    }
    xmls.push_back(xml);
  }
  const Text common = baseline(xmls.data(), xmls.size());
  if (common == nullptr) return absl::FailedPreconditionError(Why());
  return ReadCpu(common.get());
}

}  // namespace hearth::libvirt
