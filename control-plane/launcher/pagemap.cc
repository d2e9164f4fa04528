// SPDX-License-Identifier: Apache-2.0
#include "control-plane/launcher/pagemap.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace hearth::launcher {
namespace {

// Without CAP_SYS_ADMIN among the effective capabilities while it lives.
class WithoutSysAdmin {
 public:
  static absl::StatusOr<WithoutSysAdmin> Enter() {
    WithoutSysAdmin without;
    if (syscall(SYS_capget, &without.header_, without.before_) != 0) return ErrnoStatus("capget");
    __user_cap_data_struct less[_LINUX_CAPABILITY_U32S_3];
    less[0] = without.before_[0];
    less[1] = without.before_[1];
    less[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &= ~CAP_TO_MASK(CAP_SYS_ADMIN);
    if (syscall(SYS_capset, &without.header_, less) != 0) return ErrnoStatus("capset");
    without.active_ = true;
    return without;
  }
  WithoutSysAdmin(WithoutSysAdmin&& other) noexcept
      : header_(other.header_), active_(other.active_) {
    before_[0] = other.before_[0];
    before_[1] = other.before_[1];
    other.active_ = false;
  }
  WithoutSysAdmin& operator=(WithoutSysAdmin&&) = delete;
  ~WithoutSysAdmin() {
    // What is permitted stayed so, hence this cannot be refused.
    if (active_) syscall(SYS_capset, &header_, before_);
  }

 private:
  WithoutSysAdmin() = default;
  __user_cap_header_struct header_ = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct before_[_LINUX_CAPABILITY_U32S_3] = {};
  bool active_ = false;
};

}  // namespace

absl::StatusOr<UniqueFd> OpenPagemap(int process_folder, pid_t pid) {
  ASSIGN_OR_RETURN(const WithoutSysAdmin without, WithoutSysAdmin::Enter());
  UniqueFd pagemap(openat(process_folder, absl::StrCat(pid, "/pagemap").c_str(),
                          O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!pagemap) return ErrnoStatus("opening a VMM's pagemap");
  return pagemap;
}

}  // namespace hearth::launcher
