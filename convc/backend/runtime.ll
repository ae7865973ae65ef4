; The native runtime: runs a compiled program on one or several threads.
;
; A program is an array of 64-bit words. Word 0 is the number of steps, word 1 the scratch bytes of a
; thread; then each step has five words:
;   kernel address, first argument, number of arguments, tasks, 1 if they are worth sharing
; The arguments are places in a run's table of addresses, which starts with that of the scratch.
;
; sync (per run), a cache line each:
;   0 current step | 64 tasks done | 128 sleepers on the step | 192, 256, ... ticket of thread 0, 1, ...
; The tasks of a step are dealt out evenly, neighbours to one thread, so that in run after run a
; thread finds its weights, and what it wrote the step before, in its own cache. A ticket holds the
; step in its upper half, the next of the thread's tasks in the lower: the thread takes chunks from
; it, then from the tickets of others. The one that completes a step's last task opens the next
; step. So a thread that comes late, or not at all, is not waited for.
;
; mailbox (per worker):   0 state: 0 idle, 1 posted, 2 running | 64 sleepers on it |
;   256 program | 264 arguments | 272 table | 280 sync | 288 thread | 296 threads

%timespec = type { i64, i64 }

declare i32 @clock_gettime(i32, ptr)

define internal i64 @nanoseconds() nounwind {
  %t = alloca %timespec
  %status = call i32 @clock_gettime(i32 1, ptr %t)
  %s = load i64, ptr %t
  %p = getelementptr i8, ptr %t, i64 8
  %ns = load i64, ptr %p
  %scaled = mul i64 %s, 1000000000
  %sum = add i64 %scaled, %ns
  ret i64 %sum
}

; Return once the word differs from %old: spin for a bounded time, then sleep.
define internal void @wait_change(ptr %word, i32 %old, ptr %sleepers) nounwind {
entry:
  %start = call i64 @nanoseconds()
  br label %spin
spin:
  %turn = phi i64 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %now, %old
  br i1 %same, label %pause, label %done
pause:
  call void @relax()
  %next = add i64 %turn, 1
  %low = and i64 %next, 63
  %look = icmp eq i64 %low, 0
  br i1 %look, label %clock, label %again
again:
  br label %spin
clock:
  %time = call i64 @nanoseconds()
  %spent = sub i64 %time, %start
  %more = icmp slt i64 %spent, SPIN_NANOSECONDS
  br i1 %more, label %again2, label %drowsy
again2:
  br label %again
drowsy:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %check
check:
  %seen = load atomic i32, ptr %word seq_cst, align 4
  %still = icmp eq i32 %seen, %old
  br i1 %still, label %sleep, label %awake
sleep:
  call void @sleep_on(ptr %word, i32 %old)
  br label %check
awake:
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done
done:
  ret void
}

define internal void @publish(ptr %word, i32 %value, ptr %sleepers) nounwind {
  store atomic i32 %value, ptr %word seq_cst, align 4
  call void @wake(ptr %word, ptr %sleepers)
  ret void
}

; Wake those who sleep on a word that has just changed.
define internal void @wake(ptr %word, ptr %sleepers) nounwind {
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %wake, label %done
wake:
  call void @wake_all(ptr %word)
  br label %done
done:
  ret void
}

; Run tasks %begin..%end of the step whose record is given.
define internal void @work(ptr %record, ptr %arguments, ptr %table, ptr %scratch, i64 %begin, i64 %end) nounwind {
entry:
  %buffers = alloca [MAXIMUM_ARGUMENTS x ptr], align 64
  %kernel = load ptr, ptr %record
  %p1 = getelementptr i64, ptr %record, i64 1
  %first = load i64, ptr %p1
  %p2 = getelementptr i64, ptr %record, i64 2
  %count = load i64, ptr %p2
  br label %gather
gather:
  %i = phi i64 [ 0, %entry ], [ %i1, %gather ]
  %where = add i64 %first, %i
  %pslot = getelementptr i64, ptr %arguments, i64 %where
  %slot = load i64, ptr %pslot
  %paddress = getelementptr ptr, ptr %table, i64 %slot
  %address = load ptr, ptr %paddress
  %pbuffer = getelementptr ptr, ptr %buffers, i64 %i
  store ptr %address, ptr %pbuffer
  %i1 = add i64 %i, 1
  %gathered = icmp sge i64 %i1, %count
  br i1 %gathered, label %go, label %gather
go:
  call void %kernel(ptr %buffers, i64 %begin, i64 %end, ptr %scratch)
  ret void
}

; The whole program on one thread.
define void @convc_run(ptr %program, ptr %arguments, ptr %table) nounwind {
entry:
  %scratch = load ptr, ptr %table
  %steps = load i64, ptr %program
  %first = getelementptr i64, ptr %program, i64 2
  br label %check
check:
  %number = phi i64 [ 0, %entry ], [ %following, %step ]
  %more = icmp slt i64 %number, %steps
  br i1 %more, label %step, label %finished
step:
  %offset = mul i64 %number, 5
  %record = getelementptr i64, ptr %first, i64 %offset
  %p3 = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %p3
  call void @work(ptr %record, ptr %arguments, ptr %table, ptr %scratch, i64 0, i64 %tasks)
  %following = add i64 %number, 1
  br label %check
finished:
  ret void
}

; The kernel of a step whose tasks are images: a whole program for each, with memory of its own in
; the thread's scratch. Its first argument describes it:
;   program | arguments | words of the table, a record for each but the first: base, stride, offset
; A place in the table is base + stride * image + offset; the base is an argument of the step, by
; its number, or 0 (-1), or the scratch (-2).
define void @convc_images(ptr %buffers, i64 %begin, i64 %end, ptr %scratch) nounwind {
entry:
  %about = load ptr, ptr %buffers
  %program = load ptr, ptr %about
  %pa = getelementptr i64, ptr %about, i64 1
  %arguments = load ptr, ptr %pa
  %pw = getelementptr i64, ptr %about, i64 2
  %words = load i64, ptr %pw
  %nbytes = mul i64 %words, 8
  %over = add i64 %nbytes, 63
  %room = and i64 %over, -64
  %own = getelementptr i8, ptr %scratch, i64 %room
  store ptr %own, ptr %scratch
  %memory = ptrtoint ptr %scratch to i64
  br label %check
check:
  %image = phi i64 [ %begin, %entry ], [ %following, %run ]
  %more = icmp slt i64 %image, %end
  br i1 %more, label %fill, label %finished
fill:
  %slot = phi i64 [ 1, %check ], [ %next, %place ]
  %filling = icmp slt i64 %slot, %words
  br i1 %filling, label %place, label %run
place:
  %at = mul i64 %slot, 3
  %record = getelementptr i64, ptr %about, i64 %at
  %base = load i64, ptr %record
  %pstride = getelementptr i64, ptr %record, i64 1
  %stride = load i64, ptr %pstride
  %poffset = getelementptr i64, ptr %record, i64 2
  %offset = load i64, ptr %poffset
  %isown = icmp eq i64 %base, -2
  %inner = select i1 %isown, i64 %memory, i64 0
  %given = icmp sge i64 %base, 0
  %number = select i1 %given, i64 %base, i64 0
  %pbuffer = getelementptr i64, ptr %buffers, i64 %number
  %buffer = load i64, ptr %pbuffer
  %start = select i1 %given, i64 %buffer, i64 %inner
  %ahead = mul i64 %stride, %image
  %moved = add i64 %start, %ahead
  %address = add i64 %moved, %offset
  %pentry = getelementptr i64, ptr %scratch, i64 %slot
  store i64 %address, ptr %pentry
  %next = add i64 %slot, 1
  br label %fill
run:
  call void @convc_run(ptr %program, ptr %arguments, ptr %scratch)
  %following = add i64 %image, 1
  br label %check
finished:
  ret void
}

; The first task of a thread: all tasks are thread 0's where they are not worth sharing.
define internal i64 @deal(ptr %record, i64 %thread, i64 %threads) nounwind {
  %p3 = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %p3
  %p4 = getelementptr i64, ptr %record, i64 4
  %parallel = load i64, ptr %p4
  %shared = icmp ne i64 %parallel, 0
  %scaled = mul i64 %tasks, %thread
  %even = udiv i64 %scaled, %threads
  %zero = icmp eq i64 %thread, 0
  %all = select i1 %zero, i64 0, i64 %tasks
  %start = select i1 %shared, i64 %even, i64 %all
  ret i64 %start
}

; Open a step: deal its tasks, then say that it is the current one.
define internal void @open(ptr %program, ptr %sync, i64 %step, i64 %threads) nounwind {
entry:
  %done = getelementptr i8, ptr %sync, i64 64
  store atomic i64 0, ptr %done monotonic, align 8
  %steps = load i64, ptr %program
  %any = icmp ult i64 %step, %steps
  %first = getelementptr i64, ptr %program, i64 2
  %offset = mul i64 %step, 5
  %record = getelementptr i64, ptr %first, i64 %offset
  %fresh = shl i64 %step, 32
  br i1 %any, label %deal, label %say
deal:
  %thread = phi i64 [ 0, %entry ], [ %following, %deal ]
  %start = call i64 @deal(ptr %record, i64 %thread, i64 %threads)
  %ticket = or i64 %fresh, %start
  %line = mul i64 %thread, 64
  %place = add i64 %line, 192
  %own = getelementptr i8, ptr %sync, i64 %place
  store atomic i64 %ticket, ptr %own monotonic, align 8
  %following = add i64 %thread, 1
  %more = icmp ult i64 %following, %threads
  br i1 %more, label %deal, label %say
say:
  %sleepers = getelementptr i8, ptr %sync, i64 128
  %number = trunc i64 %step to i32
  call void @publish(ptr %sync, i32 %number, ptr %sleepers)
  ret void
}

; One thread's part of a shared run: take chunks until the last step is done.
define internal void @share(ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 %thread, i64 %threads) nounwind {
entry:
  %pstride = getelementptr i64, ptr %program, i64 1
  %stride = load i64, ptr %pstride
  %scratches = load ptr, ptr %table
  %mine = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %scratches, i64 %mine
  %steps = load i64, ptr %program
  %first = getelementptr i64, ptr %program, i64 2
  %done = getelementptr i8, ptr %sync, i64 64
  %sleepers = getelementptr i8, ptr %sync, i64 128
  %parts = mul i64 %threads, 8
  br label %look
look:
  %now = load atomic i32, ptr %sync acquire, align 4
  %step = zext i32 %now to i64
  %over = icmp uge i64 %step, %steps
  br i1 %over, label %finished, label %inspect
inspect:
  %offset = mul i64 %step, 5
  %record = getelementptr i64, ptr %first, i64 %offset
  %p3 = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %p3
  %p4 = getelementptr i64, ptr %record, i64 4
  %parallel = load i64, ptr %p4
  %shared = icmp ne i64 %parallel, 0
  %part = udiv i64 %tasks, %parts
  %some = icmp ugt i64 %part, 0
  %least = select i1 %some, i64 %part, i64 1
  %chunk = select i1 %shared, i64 %least, i64 %tasks
  br label %turn
turn:
  %tried = phi i64 [ 0, %inspect ], [ %trying, %next ]
  %sum = add i64 %thread, %tried
  %whose = urem i64 %sum, %threads
  %line = mul i64 %whose, 64
  %place = add i64 %line, 192
  %own = getelementptr i8, ptr %sync, i64 %place
  %after = add i64 %whose, 1
  %limit = call i64 @deal(ptr %record, i64 %after, i64 %threads)
  br label %read
read:
  %ticket = load atomic i64, ptr %own acquire, align 8
  %dealt = lshr i64 %ticket, 32
  %current = icmp eq i64 %dealt, %step
  br i1 %current, label %inquire, label %look
inquire:
  %begin = and i64 %ticket, 4294967295
  %left = icmp ult i64 %begin, %limit
  br i1 %left, label %take, label %next
next:
  %trying = add i64 %tried, 1
  %others = icmp ult i64 %trying, %threads
  br i1 %others, label %turn, label %wait
wait:
  call void @wait_change(ptr %sync, i32 %now, ptr %sleepers)
  br label %look
take:
  %stop = add i64 %begin, %chunk
  %beyond = icmp ugt i64 %stop, %limit
  %end = select i1 %beyond, i64 %limit, i64 %stop
  %count = sub i64 %end, %begin
  %fresh = add i64 %ticket, %count
  %pair = cmpxchg ptr %own, i64 %ticket, i64 %fresh acq_rel acquire
  %won = extractvalue { i64, i1 } %pair, 1
  br i1 %won, label %run, label %read
run:
  call void @work(ptr %record, ptr %arguments, ptr %table, ptr %scratch, i64 %begin, i64 %end)
  %before = atomicrmw add ptr %done, i64 %count acq_rel
  %total = add i64 %before, %count
  %last = icmp eq i64 %total, %tasks
  br i1 %last, label %close, label %read
close:
  %following = add i64 %step, 1
  call void @open(ptr %program, ptr %sync, i64 %following, i64 %threads)
  br label %look
finished:
  ret void
}

; The caller's side: post the run to %threads - 1 workers, take part as thread 0, then withdraw it
; from those who have not begun, and await the others.
define void @convc_launch(ptr %mailboxes, ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 %threads) nounwind {
entry:
  call void @open(ptr %program, ptr %sync, i64 0, i64 %threads)
  br label %post
post:
  %w = phi i64 [ 1, %entry ], [ %w1, %fill ]
  %more = icmp slt i64 %w, %threads
  br i1 %more, label %fill, label %work
fill:
  %index = sub i64 %w, 1
  %pbox = getelementptr ptr, ptr %mailboxes, i64 %index
  %box = load ptr, ptr %pbox
  %f0 = getelementptr i8, ptr %box, i64 256
  store ptr %program, ptr %f0
  %f1 = getelementptr i8, ptr %box, i64 264
  store ptr %arguments, ptr %f1
  %f2 = getelementptr i8, ptr %box, i64 272
  store ptr %table, ptr %f2
  %f3 = getelementptr i8, ptr %box, i64 280
  store ptr %sync, ptr %f3
  %f4 = getelementptr i8, ptr %box, i64 288
  store i64 %w, ptr %f4
  %f5 = getelementptr i8, ptr %box, i64 296
  store i64 %threads, ptr %f5
  %sleepers = getelementptr i8, ptr %box, i64 64
  call void @publish(ptr %box, i32 1, ptr %sleepers)
  %w1 = add i64 %w, 1
  br label %post
work:
  call void @share(ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 0, i64 %threads)
  br label %join
join:
  %j = phi i64 [ 1, %work ], [ %j1, %joined ]
  %waiting = icmp slt i64 %j, %threads
  br i1 %waiting, label %withdraw, label %finished
withdraw:
  %jindex = sub i64 %j, 1
  %pjbox = getelementptr ptr, ptr %mailboxes, i64 %jindex
  %jbox = load ptr, ptr %pjbox
  %pair = cmpxchg ptr %jbox, i32 1, i32 0 acq_rel acquire
  %unread = extractvalue { i32, i1 } %pair, 1
  br i1 %unread, label %joined, label %await
await:
  %jsleepers = getelementptr i8, ptr %jbox, i64 64
  call void @wait_change(ptr %jbox, i32 2, ptr %jsleepers)
  br label %joined
joined:
  %j1 = add i64 %j, 1
  br label %join
finished:
  ret void
}

; A worker's life: wait for a run, take part, say so.
define void @convc_worker(ptr %box) nounwind {
entry:
  %sleepers = getelementptr i8, ptr %box, i64 64
  br label %idle
idle:
  call void @wait_change(ptr %box, i32 0, ptr %sleepers)
  %pair = cmpxchg ptr %box, i32 1, i32 2 acq_rel acquire
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %work, label %idle
work:
  %f0 = getelementptr i8, ptr %box, i64 256
  %program = load ptr, ptr %f0
  %f1 = getelementptr i8, ptr %box, i64 264
  %arguments = load ptr, ptr %f1
  %f2 = getelementptr i8, ptr %box, i64 272
  %table = load ptr, ptr %f2
  %f3 = getelementptr i8, ptr %box, i64 280
  %sync = load ptr, ptr %f3
  %f4 = getelementptr i8, ptr %box, i64 288
  %thread = load i64, ptr %f4
  %f5 = getelementptr i8, ptr %box, i64 296
  %threads = load i64, ptr %f5
  call void @share(ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 %thread, i64 %threads)
  call void @publish(ptr %box, i32 0, ptr %sleepers)
  br label %idle
}
