//! What x86-64 registers of a stopped thread mean.

use libc::user_regs_struct;

/// Code segment of 64-bit user code (`__USER_CS`, `arch/x86/include/asm/segment.h`).
const USER_CS: u64 = 0x33;
/// Length of the `syscall` instruction.
pub const SYSCALL_LEN: u64 = 2;

/// Results with which the kernel asks itself to restart an interrupted call (`include/linux/errno.h`).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
pub const ERESTART_RESTARTBLOCK: i64 = -516;

/// Whether the thread runs 64-bit code.
pub fn is_64_bit(regs: &user_regs_struct) -> bool {
    regs.cs == USER_CS
}

/// Registers as they will be once the kernel has arranged the restart of an interrupted system call.
///
/// A thread that was stopped in a system call shows the call's number in `orig_rax` and one of the restart codes in
/// `rax`. The kernel turns that into a second execution of the `syscall` instruction on its way back to user mode
/// (`arch_do_signal_or_restart`). Whoever goes back by other means than through the kernel must do the same.
pub fn after_restart(regs: &user_regs_struct) -> user_regs_struct {
    let mut regs = *regs;
    if (regs.orig_rax as i64) < 0 {
        return regs;
    }
    match regs.rax as i64 {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {
            regs.rax = regs.orig_rax;
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
        }
        ERESTART_RESTARTBLOCK => {
            regs.rax = libc::SYS_restart_syscall as u64;
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LEN);
        }
        _ => {}
    }
    regs.orig_rax = u64::MAX;
    regs
}

/// Registers as an image holds them: those from which a thread goes on anywhere, without a restart block.
///
/// What remained of a sleep is in the restart block, which cannot be read, so the call is made again as a whole. It does
/// not fail with `EINTR` instead: programs that handle no signals do not expect that.
pub fn for_image(regs: &user_regs_struct) -> user_regs_struct {
    let mut after = after_restart(regs);
    if (regs.orig_rax as i64) >= 0 && regs.rax as i64 == ERESTART_RESTARTBLOCK {
        after.rax = regs.orig_rax;
        if regs.orig_rax == libc::SYS_restart_syscall as u64 {
            // The call that a restart continues is not in the registers any more.
            after.rax = -i64::from(libc::EINTR) as u64;
            after.rip = regs.rip;
        }
    }
    after.orig_rax = regs.orig_rax;
    after
}

/// Registers for entering code at `rip` with a stack at `rsp`, from whatever the thread was doing.
pub fn entering(regs: &user_regs_struct, rip: u64, rsp: u64, args: [u64; 3]) -> user_regs_struct {
    let [rdi, rsi, rdx] = args;
    // Direction flag clear, as the calling convention asks; no trap flag, or we would step through the agent.
    let eflags = regs.eflags & !(0x400 | 0x100);
    user_regs_struct { rip, rsp, rdi, rsi, rdx, eflags, orig_rax: u64::MAX, ..*regs }
}

/// Registers for making one system call with the `syscall` instruction at `rip`.
pub fn calling(regs: &user_regs_struct, rip: u64, number: i64, args: [u64; 6]) -> user_regs_struct {
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    let rax = number as u64;
    let eflags = regs.eflags & !0x100;
    user_regs_struct { rip, rax, rdi, rsi, rdx, r10, r8, r9, eflags, orig_rax: u64::MAX, ..*regs }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rstest::rstest;

    fn stopped_in(call: i64, result: i64) -> user_regs_struct {
        // SAFETY-free way to a zeroed struct: the libc type has no constructor.
        let mut regs = zeroed();
        regs.orig_rax = call as u64;
        regs.rax = result as u64;
        regs.rip = 0x1002;
        regs
    }

    pub(in crate::tracee) fn zeroed() -> user_regs_struct {
        user_regs_struct {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            orig_rax: 0,
            rip: 0,
            cs: USER_CS,
            eflags: 0,
            rsp: 0,
            ss: 0,
            fs_base: 0,
            gs_base: 0,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        }
    }

    #[rstest]
    #[case::read(0, ERESTARTSYS, 0, 0x1000)]
    #[case::pause(34, ERESTARTNOHAND, 34, 0x1000)]
    #[case::nanosleep(35, ERESTART_RESTARTBLOCK, 219, 0x1000)]
    #[case::finished(1, 5, 5, 0x1002)]
    #[case::not_in_a_call(-1, ERESTARTSYS, ERESTARTSYS, 0x1002)]
    fn restarts_as_the_kernel_would(
        #[case] call: i64,
        #[case] result: i64,
        #[case] rax: i64,
        #[case] rip: u64,
    ) {
        let after = after_restart(&stopped_in(call, result));
        assert_eq!((after.rax as i64, after.rip), (rax, rip));
        assert_eq!(after.orig_rax, u64::MAX);
    }

    #[rstest]
    #[case::sleep_starts_again(35, 35, 0x1000)]
    #[case::continued_sleep_is_interrupted(219, -4, 0x1002)]
    fn an_image_has_no_restart_block(#[case] call: i64, #[case] rax: i64, #[case] rip: u64) {
        let image = for_image(&stopped_in(call, ERESTART_RESTARTBLOCK));
        assert_eq!((image.rax as i64, image.rip, image.orig_rax as i64), (rax, rip, call));
    }
}
