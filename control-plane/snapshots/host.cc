// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/host.h"

#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "vmm/base/status.h"

namespace hearth::control {
namespace {

namespace pb = hearth::snapshot::v1;

class Differences {
 public:
  template <typename T>
  void Compare(absl::string_view what, const T& here, const T& there) {
    if (here != there)
      Add(absl::StrCat(what, " ", Shown(here), " here, ", Shown(there), " in the snapshot"));
  }
  void Add(std::string text) { texts_.push_back(std::move(text)); }
  const std::vector<std::string>& texts() const { return texts_; }

 private:
  static std::string Shown(const std::string& text) { return text.empty() ? "(none)" : text; }
  static std::string Shown(uint32_t number) { return absl::StrCat(number); }
  std::vector<std::string> texts_;
};

}  // namespace

absl::StatusOr<pb::Host> HostDescription(const std::string& vmm_version) {
  std::ifstream file("/proc/cpuinfo");
  std::stringstream cpuinfo;
  cpuinfo << file.rdbuf();
  struct utsname name = {};
  if (uname(&name) != 0) return ErrnoStatus("uname");
  return HostDescription(vmm_version, cpuinfo.str(), name.release);
}

absl::StatusOr<pb::Host> HostDescription(const std::string& vmm_version, const std::string& cpuinfo,
                                         const std::string& kernel_release) {
  std::map<std::string, std::string> fields;
  for (const absl::string_view line : absl::StrSplit(cpuinfo, '\n')) {
    if (absl::StripAsciiWhitespace(line).empty()) {
      if (!fields.empty()) break;  // The first processor stands for all.
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    fields[std::string(absl::StripAsciiWhitespace(field.first))] =
        std::string(absl::StripAsciiWhitespace(field.second));
  }
  pb::Host host;
  host.set_vmm_version(vmm_version);
  host.set_kernel_release(kernel_release);
  host.set_cpu_vendor(fields["vendor_id"]);
  host.set_cpu_model(fields["model name"]);
  host.set_microcode(fields["microcode"]);
  uint32_t family = 0;
  uint32_t model = 0;
  uint32_t stepping = 0;
  if (host.cpu_vendor().empty() || !absl::SimpleAtoi(fields["cpu family"], &family) ||
      !absl::SimpleAtoi(fields["model"], &model)) {
    return absl::InternalError("/proc/cpuinfo tells no vendor, family or model of the CPU");
  }
  // "unknown" where the hypervisor below hides it.
  if (!absl::SimpleAtoi(fields["stepping"], &stepping)) stepping = 0;
  host.set_cpu_family(family);
  host.set_cpu_model_number(model);
  host.set_cpu_stepping(stepping);
  std::vector<std::string> features = absl::StrSplit(fields["flags"], ' ', absl::SkipEmpty());
  std::sort(features.begin(), features.end());
  features.erase(std::unique(features.begin(), features.end()), features.end());
  for (std::string& feature : features) host.add_cpu_features(std::move(feature));
  return host;
}

std::vector<std::string> HostDifferences(const pb::Host& made_on, const pb::Host& here) {
  Differences differences;
  differences.Compare("CPU vendor", here.cpu_vendor(), made_on.cpu_vendor());
  differences.Compare("CPU model", here.cpu_model(), made_on.cpu_model());
  differences.Compare("CPU family", here.cpu_family(), made_on.cpu_family());
  differences.Compare("CPU model number", here.cpu_model_number(), made_on.cpu_model_number());
  differences.Compare("CPU stepping", here.cpu_stepping(), made_on.cpu_stepping());
  differences.Compare("microcode", here.microcode(), made_on.microcode());
  // Sorted here and not only by who made it, for the header may be an outsider's.
  std::vector<std::string> has(here.cpu_features().begin(), here.cpu_features().end());
  std::vector<std::string> needs(made_on.cpu_features().begin(), made_on.cpu_features().end());
  std::sort(has.begin(), has.end());
  std::sort(needs.begin(), needs.end());
  std::vector<std::string> missing;
  std::set_difference(needs.begin(), needs.end(), has.begin(), has.end(),
                      std::back_inserter(missing));
  if (!missing.empty()) {
    differences.Add(absl::StrCat("CPU features missing here: ", absl::StrJoin(missing, " ")));
  }
  differences.Compare("VMM version", here.vmm_version(), made_on.vmm_version());
  return differences.texts();
}

absl::Status CheckFits(const pb::Header& header, const pb::Host& host, const pb::Images& images) {
  const pb::Images& made_with = header.images();
  Differences differences;
  for (std::string& difference : HostDifferences(header.host(), host)) {
    differences.Add(std::move(difference));
  }
  differences.Compare("kernel image", images.kernel(), made_with.kernel());
  differences.Compare("agent image", images.agent(), made_with.agent());
  differences.Compare("runtime image", images.runtime(), made_with.runtime());
  differences.Compare("code image", images.code(), made_with.code());
  if (differences.texts().empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("snapshot ", header.uid(),
                   " does not fit this host: ", absl::StrJoin(differences.texts(), "; ")));
}

}  // namespace hearth::control
