// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/cpu_commands.h"

#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "control-plane/backend/libvirt/host_cpu.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"

namespace hearth::libvirt {
namespace {

struct PrintOptions {
  bool json = false;
  std::vector<std::string> files;
};

absl::Status Print(const absl::StatusOr<CpuDescription>& cpu, const PrintOptions& options) {
  RETURN_IF_ERROR(cpu.status());
  if (options.json) {
    const nlohmann::json json = {
        {"model", cpu->model}, {"more", cpu->more}, {"fewer", cpu->fewer}, {"xml", cpu->xml}};
    // What libvirt repeats of a file need not be UTF-8.
    std::cout << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
  } else {
    std::cout << cpu->xml << std::endl;
  }
  return absl::OkStatus();
}

// What `cpu` printed, or the document of `hearth doctor --json`, which has it in cpu.libvirt.
absl::StatusOr<NamedCpu> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  // One byte more than is allowed tells that there are more.
  std::string text(kMaxCpuFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad() || file.gcount() == 0) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read, or is empty"));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxCpuFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is over ", kMaxCpuFileBytes, " bytes, too long for a processor"));
  }
  if (text[0] != '{') return NamedCpu{path, std::move(text)};
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  for (const char* place : {"/cpu/libvirt/xml", "/xml"}) {
    const nlohmann::json::json_pointer at(place);
    // No member of what is no object.
    if (json.is_object() && json.contains(at) && json[at].is_string()) {
      return NamedCpu{path, json[at].get<std::string>()};
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path,
                   ": has no processor's XML (cpu.libvirt.xml); make it by `hearth doctor "
                   "--json` where hearth-libvirt is installed"));
}

absl::Status Baseline(const PrintOptions& options) {
  std::vector<NamedCpu> cpus;
  for (const std::string& path : options.files) {
    ASSIGN_OR_RETURN(NamedCpu cpu, ReadFile(path));
    cpus.push_back(std::move(cpu));
  }
  return Print(BaselineCpu(cpus), options);
}

}  // namespace

void AddCpuCommands(CLI::App* app, std::function<absl::Status()>* run) {
  const auto options = std::make_shared<PrintOptions>();
  CLI::App* cpu = app->add_subcommand("cpu", "Print this host's processor as libvirt describes it");
  CLI::App* baseline =
      app->add_subcommand("baseline", "Print what the processors of several hosts have in common");
  for (CLI::App* command : {cpu, baseline}) {
    command->add_flag("--json", options->json, "The model and its features apart, beside the XML");
  }
  baseline
      ->add_option("FILE", options->files,
                   "What `cpu`, or `hearth doctor --json`, printed on each host")
      ->required();
  cpu->callback([=] { *run = [options] { return Print(DescribeHostCpu(), *options); }; });
  baseline->callback([=] { *run = [options] { return Baseline(*options); }; });
}

}  // namespace hearth::libvirt
