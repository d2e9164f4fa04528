// SPDX-License-Identifier: Apache-2.0
// The part of the diagnosis that is about libvirt: what hearth-libvirt with its own, embedded
// driver needs.
#include <grp.h>
#include <pwd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cli/doctor/host.h"
#include "cli/doctor/programs.h"

namespace hearth::cli {
namespace {

// Its last line, or why there is none. The loader's complaint comes last.
std::string LastWords(const absl::StatusOr<ProgramResult>& ran) {
  if (!ran.ok()) return std::string(ran.status().message());
  const std::vector<std::string> lines =
      absl::StrSplit(absl::StripTrailingAsciiWhitespace(ran->output), '\n');
  return lines.back();
}

Check HelperCheck(const std::string& program) {
  Check check{"helper", Check::State::kBad, "hearth-libvirt is missing",
              "apt-get install libvirt-dev, then build it (the target hearth-libvirt), or install "
              "it beside hearth."};
  if (program.empty()) return check;
  // Which shows, too, that libvirt's library is here and new enough.
  const absl::StatusOr<ProgramResult> ran = RunProgram({program, "--version"}, /*errors=*/true);
  if (!ran.ok() || ran->wait_status != 0) {
    check.text = "hearth-libvirt does not run: " + LastWords(ran);
    check.advice = "apt-get install libvirt0, or build hearth-libvirt anew on this machine.";
    return check;
  }
  return {"helper", Check::State::kGood, LastWords(ran) + " is there", ""};
}

Check DriverCheck(const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    const std::string module = folder + "/libvirt_driver_qemu.so";
    std::error_code error;
    if (std::filesystem::exists(module, error)) {
      return {"driver", Check::State::kGood, "libvirt's QEMU driver is there: " + module, ""};
    }
  }
  return {"driver", Check::State::kBad, "libvirt's QEMU driver is missing",
          "apt-get install libvirt-daemon-driver-qemu"};
}

Check QemuCheck(const std::string& program) {
  Check check{"qemu", Check::State::kBad, "qemu-system-x86_64 is missing",
              "apt-get install qemu-system-x86"};
  if (program.empty()) return check;
  const absl::StatusOr<ProgramResult> ran =
      RunProgram({program, "-machine", "help"}, /*errors=*/true);
  if (!ran.ok() || ran->wait_status != 0) {
    check.text = "qemu-system-x86_64 does not run: " + LastWords(ran);
    return check;
  }
  for (const absl::string_view line : absl::StrSplit(ran->output, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.front() != "microvm") continue;
    return {"qemu", Check::State::kGood, program + " has the machine type microvm", ""};
  }
  check.text = "qemu-system-x86_64 has no machine type microvm";
  return check;
}

Check UserCheck(const std::string& user) {
  const bool known = getpwnam(user.c_str()) != nullptr;
  const bool group = getgrnam(user.c_str()) != nullptr;
  if (known && group) return {"user", Check::State::kGood, user + " is there, with its group", ""};
  return {"user", Check::State::kBad,
          absl::StrCat("there is no ", known ? "group " : "user ", user),
          "scripts/install-deps makes it; or apt-get install libvirt-daemon-system"};
}

}  // namespace

LibvirtPlaces UsualLibvirtPlaces() {
  LibvirtPlaces places;
  places.helper = FindProgram("hearth-libvirt");
  places.qemu = FindProgram("qemu-system-x86_64");
  // As libvirt itself looks: its variable, else where it was installed.
  const char* folder = std::getenv("LIBVIRT_DRIVER_DIR");
  if (folder != nullptr) {
    places.driver_folders = {folder};
  } else {
    for (const char* library : {"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"}) {
      places.driver_folders.push_back(absl::StrCat(library, "/libvirt/connection-driver"));
    }
  }
  return places;
}

std::vector<Check> CheckLibvirt(const LibvirtPlaces& places) {
  return {HelperCheck(places.helper), DriverCheck(places.driver_folders), QemuCheck(places.qemu),
          UserCheck(places.user)};
}

}  // namespace hearth::cli
